//! The fault-injecting proxy between a program under test and DynamoDB, DynamoDB Streams and SQS.
//!
//! ```text
//! program ─▶ serve ─▶ AwsRequest ─▶ Handler ─▶ Upstream ─▶ service
//!                                      │
//!                                      └─▶ AwsResponse, ServiceError or Cut
//! ```
//!
//! The mechanism is the same for every proxy: [`serve`] accepts connections, reads AWS JSON
//! requests and cuts the connection if the handler returns [`Cut`]; [`Upstream`] forwards a
//! request. The policy is a [`Handler`]: `scripted` follows the script of a test, the chaos
//! tester samples faults at random.

mod aws_json;
mod scripted;
mod server;
mod upstream;

pub use aws_json::{
    AwsRequest, AwsResponse, CloudService, HttpResponse, ServiceError, json_response,
};
pub use scripted::{Call, Count, Fault, Proxy};
pub use server::{Handler, Listener, Tasks, serve};
pub use upstream::Upstream;

/// Instruction to close the connection instead of sending a response.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
pub struct Cut;
