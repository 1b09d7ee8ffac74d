//! The local cloud as the AWS SDK sees it.

mod dynamodb;
mod lifecycle;
mod requests;
mod sqs;
mod streams;
mod support;
