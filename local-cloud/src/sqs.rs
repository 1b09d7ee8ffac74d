//! SQS: rustack's queues behind checks and an accept loop of our own.

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

use crate::clients::{REGION, reachable};
use crate::connections;
use crate::error::{Service, StartError};
use crate::service_host::ServiceHost;

/// With a second thread, two simultaneous `CreateQueue` of one name could make
/// two queues, and the messages of one be lost: rustack looks a name up and
/// inserts it in two steps.
const WORKERS: usize = 1;

/// The account in queue URLs and ARNs, the same as in dynoxide's ARNs.
const ACCOUNT: &str = "000000000000";

/// Starts SQS without any queue.
pub(crate) fn start(addr: SocketAddr) -> Result<ServiceHost, StartError> {
    ServiceHost::start(
        Service::Sqs,
        "cloud-sqs",
        addr,
        WORKERS,
        |listener, bound| {
            // Queue URLs carry the advertised address: a client must be able to use
            // them as they are.
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
