//! A headless Chromium with a profile of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{PATIENCE, eventually};
use thirtyfour::{
    By, ChromiumLikeCapabilities, DesiredCapabilities, LoggingPrefsLogLevel, WebDriver,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Switches that disable all requests of the browser to the internet.
const ARGUMENTS: [&str; 9] = [
    "--headless=new",
    // Tests run as root in containers, where Chromium's sandbox cannot start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// Both processes end when dropped.
pub(crate) struct Browser {
    pub(crate) page: WebDriver,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver (Debian's chromium-driver) starts");
        let mut capabilities = DesiredCapabilities::chrome();
        let folder = format!("--user-data-dir={}", profile.path().display());
        for argument in ARGUMENTS.iter().copied().chain([folder.as_str()]) {
            capabilities.add_arg(argument).unwrap();
        }
        capabilities
            .set_browser_log_level(LoggingPrefsLogLevel::All)
            .unwrap();
        let url = format!("http://127.0.0.1:{}", port(&mut driver).await);
        let page = WebDriver::new(url, capabilities).await.unwrap();
        let browser = Self {
            page,
            _driver: driver,
            _profile: profile,
        };
        browser.window(1280, 860, "light").await;
        browser
    }

    /// Sets the size of the window, in CSS pixels, and the colour scheme.
    pub(crate) async fn window(&self, width: u32, height: u32, scheme: &str) {
        let cdp = self.page.cdp();
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 2, "mobile": false,
        });
        cdp.send_raw("Emulation.setDeviceMetricsOverride", size)
            .await
            .unwrap();
        let media = json!({
            "features": [{ "name": "prefers-color-scheme", "value": scheme }],
        });
        cdp.send_raw("Emulation.setEmulatedMedia", media)
            .await
            .unwrap();
    }

    /// Runs a script in every page before its own ones.
    pub(crate) async fn before_each_page(&self, script: &str) {
        let script = json!({ "source": script });
        let cdp = self.page.cdp();
        cdp.send_raw("Page.addScriptToEvaluateOnNewDocument", script)
            .await
            .unwrap();
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        let answer = self.page.execute(script, Vec::new()).await.unwrap();
        answer.json().clone()
    }

    /// Waits until a JavaScript expression is true.
    pub(crate) async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression});");
        let held = eventually(PATIENCE, || async {
            if self.run(&script).await == true {
                return Ok(());
            }
            let text = self.run("return document.body.innerText;").await;
            Err(format!(
                "{expression} does not hold; the page:\n{}",
                text.as_str().unwrap()
            ))
        });
        held.await.unwrap();
    }

    /// Waits until the element that `selector` names has `text` in it.
    pub(crate) async fn until_text(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!(
            "(document.querySelector({selector})?.innerText ?? '').includes({text})"
        ))
        .await;
    }

    pub(crate) async fn click(&self, selector: &str) {
        let element = self.page.find(By::Css(selector)).await.unwrap();
        element.click().await.unwrap();
    }

    /// Types into the element that has the focus.
    pub(crate) async fn keys(&self, keys: impl Into<thirtyfour::TypingData>) {
        let element = self.page.active_element().await.unwrap();
        element.send_keys(keys).await.unwrap();
    }

    /// Asserts that the browser logged no error: no violation of the page's policy and no failed
    /// script. Failed requests are not considered, because a relay may be dead.
    pub(crate) async fn has_no_errors(&self) {
        let log = self.page.browser_log().await.unwrap();
        let errors: Vec<_> = log
            .iter()
            .filter(|entry| entry.level == "SEVERE")
            .filter(|entry| entry.source.as_deref() != Some("network"))
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    /// Returns `true` if [`Browser::picture`] saves screenshots.
    pub(crate) fn takes_pictures() -> bool {
        pictures().is_some()
    }

    /// Saves a screenshot of the window if `CONSOLE_SCREENSHOTS` is set.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(folder) = pictures() else {
            return;
        };
        let file = PathBuf::from(folder).join(format!("{name}.png"));
        let picture = self.page.screenshot_as_png().await.unwrap();
        std::fs::write(file, picture).unwrap();
    }

    pub(crate) async fn stop(self) {
        self.page.quit().await.unwrap();
    }
}

/// Returns the folder for screenshots, if they are requested.
fn pictures() -> Option<OsString> {
    std::env::var_os("CONSOLE_SCREENSHOTS")
}

/// Returns the port that the driver printed.
async fn port(driver: &mut Child) -> u16 {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&printed);
    let mut output = BufReader::new(driver.stdout.take().unwrap()).lines();
    // The output is read to its end: a full pipe would block the driver.
    tokio::spawn(async move {
        while let Ok(Some(line)) = output.next_line().await {
            lines.lock().unwrap().push(line);
        }
    });
    let port = eventually(PATIENCE, || async {
        let lines = printed.lock().unwrap();
        lines
            .iter()
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .ok_or_else(|| lines.join("\n"))
    });
    port.await.unwrap()
}
