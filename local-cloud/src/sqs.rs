//! SQS: rustack's queues behind this crate's checks and accept loop.

mod handler;
mod message_validation;
mod queue_attributes;

use std::net::SocketAddr;
use std::sync::Arc;

use handler::CheckedSqs;
use rustack_sqs_core::config::SqsConfig;
use rustack_sqs_core::handler::RustackSqsHandler;
use rustack_sqs_core::provider::RustackSqs;
use rustack_sqs_http::service::{SqsHttpConfig, SqsHttpService};

use crate::connections;
use crate::error::{Service, StartError};
use crate::service_host::{ServiceHost, reachable};

/// One thread, because rustack looks up a queue's name and inserts it in two steps: with a second
/// thread, two concurrent `CreateQueue` requests of one name could create two queues, and the
/// messages of one would be lost.
const WORKERS: usize = 1;

/// Region in SQS ARNs. Neither service checks the region of a signature.
pub(crate) const REGION: &str = "us-east-1";

/// Account id in queue URLs and ARNs; the same as in dynoxide's ARNs.
const ACCOUNT: &str = "000000000000";

/// Starts SQS without queues.
pub(crate) fn start(addr: SocketAddr) -> Result<ServiceHost, StartError> {
    ServiceHost::start(
        Service::Sqs,
        "cloud-sqs",
        addr,
        WORKERS,
        |listener, bound| {
            // Queue URLs contain the advertised address, and clients use them unchanged.
            let advertised = reachable(bound);
            let sqs = RustackSqs::new(SqsConfig {
                skip_signature_validation: true,
                default_region: REGION.to_owned(),
                account_id: ACCOUNT.to_owned(),
                host: advertised.ip().to_string(),
                port: advertised.port(),
            });
            let handler = CheckedSqs::new(RustackSqsHandler::new(Arc::new(sqs)));
            let config = SqsHttpConfig {
                skip_signature_validation: true,
                region: REGION.to_owned(),
                credential_provider: None,
            };
            let service = SqsHttpService::new(Arc::new(handler), config);
            Ok(connections::serve(listener, move || service.clone()))
        },
    )
}
