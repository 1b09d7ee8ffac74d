//! CLIENT spans of requests to DynamoDB, by OpenTelemetry's conventions for databases and for the
//! AWS SDKs. Only requests inside a sampled trace have one: those of a background task would be
//! traces of a single span.

use aws_sdk_dynamodb::config::interceptors::{
    BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata};
use aws_sdk_dynamodb::operation::get_item::{GetItemError, GetItemInput};
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsError, TransactWriteItemsInput,
};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemInput};
use aws_sdk_dynamodb::types::TransactWriteItem;
use aws_smithy_runtime_api::client::interceptors::context::{Error, Input};
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value, global};
use opentelemetry_semantic_conventions::attribute::{
    AWS_DYNAMODB_TABLE_NAMES, AWS_REQUEST_ID, DB_OPERATION_NAME, DB_SYSTEM_NAME, ERROR_TYPE,
    HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE, RPC_METHOD, RPC_SYSTEM_NAME,
};

/// Header with the id that AWS Support asks for.
const REQUEST_ID: &str = "x-amzn-requestid";

/// Creates the spans of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct DynamoDbSpans;

/// The span of the request that runs. It ends with the request, also if that is cancelled.
#[derive(Clone, Debug)]
struct RequestSpan(Context);

impl Storable for RequestSpan {
    type Storer = StoreReplace<Self>;
}

impl Intercept for DynamoDbSpans {
    fn name(&self) -> &'static str {
        "DynamoDbSpans"
    }

    // Before it, the configuration does not contain the operation yet.
    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let parent = Context::current();
        let Some(operation) = config.load::<Metadata>().map(|it| it.name().to_owned()) else {
            return Ok(());
        };
        if !parent.span().span_context().is_sampled() {
            return Ok(());
        }
        let tracer = global::tracer("shared");
        let tables = tables(context.input()).into_iter().map(StringValue::from);
        let tables = Value::Array(Array::String(tables.collect()));
        let span = tracer
            .span_builder(format!("DynamoDB.{operation}"))
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new(DB_SYSTEM_NAME, "aws.dynamodb"),
                KeyValue::new(RPC_SYSTEM_NAME, "aws-api"),
                KeyValue::new(RPC_METHOD, format!("DynamoDB/{operation}")),
                KeyValue::new(DB_OPERATION_NAME, operation),
                KeyValue::new(AWS_DYNAMODB_TABLE_NAMES, tables),
            ])
            .start_with_context(&tracer, &parent);
        let span = RequestSpan(Context::new().with_span(span));
        config.interceptor_state().store_put(span);
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(RequestSpan(request)) = config.load::<RequestSpan>() else {
            return Ok(());
        };
        let span = request.span();
        if let Some(response) = context.response() {
            let status = i64::from(response.status().as_u16());
            span.set_attribute(KeyValue::new(HTTP_RESPONSE_STATUS_CODE, status));
            if let Some(id) = response.headers().get(REQUEST_ID) {
                span.set_attribute(KeyValue::new(AWS_REQUEST_ID, id.to_owned()));
            }
        }
        let attempts = config.load::<RequestAttempts>().map(|it| it.attempts());
        if let Some(attempts) = attempts.filter(|attempts| *attempts > 1) {
            let resent = i64::from(attempts - 1);
            span.set_attribute(KeyValue::new(HTTP_REQUEST_RESEND_COUNT, resent));
        }
        if let Some(Err(error)) = context.output_or_error() {
            let error_type = error_type(error);
            span.set_attribute(KeyValue::new(ERROR_TYPE, error_type.clone()));
            span.set_status(Status::error(error_type));
        }
        span.end();
        Ok(())
    }
}

/// Returns the tables of the requests that are sent inside a trace.
fn tables(input: &Input) -> Vec<String> {
    let name: Option<&String> = if let Some(get) = input.downcast_ref::<GetItemInput>() {
        get.table_name.as_ref()
    } else if let Some(update) = input.downcast_ref::<UpdateItemInput>() {
        update.table_name.as_ref()
    } else if let Some(transaction) = input.downcast_ref::<TransactWriteItemsInput>() {
        let mut names: Vec<_> = transaction
            .transact_items()
            .iter()
            .filter_map(table_of)
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        return names;
    } else {
        None
    };
    name.cloned().into_iter().collect()
}

fn table_of(action: &TransactWriteItem) -> Option<&str> {
    let put = action.put().map(|put| put.table_name());
    let update = action.update().map(|update| update.table_name());
    let delete = action.delete().map(|delete| delete.table_name());
    let check = action.condition_check().map(|check| check.table_name());
    put.or(update).or(delete).or(check)
}

/// Returns DynamoDB's code of the error, or how the request failed.
fn error_type(error: &OrchestratorError<Error>) -> String {
    let code = error.as_operation_error().and_then(|error| {
        let get = error.downcast_ref::<GetItemError>();
        let update = error.downcast_ref::<UpdateItemError>();
        let transaction = error.downcast_ref::<TransactWriteItemsError>();
        get.and_then(ProvideErrorMetadata::code)
            .or_else(|| update?.code())
            .or_else(|| transaction?.code())
    });
    match code {
        Some(code) => code.to_owned(),
        None if error.is_timeout_error() => "timeout".to_owned(),
        None => "_OTHER".to_owned(),
    }
}
