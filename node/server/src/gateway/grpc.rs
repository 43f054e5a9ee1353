//! gRPC on hyper, one message each way, without layers in between: each would cost every request.
//!
//! Streams go through tonic's codec (see `streams.rs`); the frames are the same.
//!
//! Invariant: a message is read from the slices that the network delivered; keys and values are
//! not copied unless a message arrives in several frames.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use prost::Message;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;

/// A request as hyper delivers it.
pub(super) type HttpRequest = http::Request<Incoming>;

/// Longest time that a client may make a request wait; a client that asks for more gets this.
const TIMEOUT_MAX: Duration = Duration::from_mins(5);

/// Flag (1 byte) and length (4 bytes) before each gRPC message.
const PREFIX: usize = 5;

/// What a request's headers say about how to serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// How long the client waits.
    pub timeout: Duration,
    /// Fail at once if this node knows no leader (etcd's `hasleader`).
    pub require_leader: bool,
}

impl Call {
    /// Reads the headers; `default` is the time for a client that gives none.
    pub(super) fn from_headers(headers: &HeaderMap, default: Duration) -> Self {
        let timeout = headers
            .get("grpc-timeout")
            .and_then(|value| parse_timeout(value.as_bytes()))
            .map_or(default, |timeout| timeout.min(TIMEOUT_MAX));
        let require_leader = headers.get("hasleader").is_some_and(|value| value == "true");
        Self { timeout, require_leader }
    }
}

/// At most eight digits and a unit, as the gRPC specification has it.
fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Reads the one message of a unary request.
///
/// # Errors
/// With the codes of other gRPC servers: too large, compressed, malformed, missing.
pub(super) async fn read<Q: Message + Default>(
    body: &mut Incoming,
    bytes_max: usize,
) -> Result<Q, Status> {
    let mut message = next_data(body).await?.unwrap_or_default();
    if message.len() < PREFIX || message.len() < PREFIX + check_prefix(&message, bytes_max)? {
        message = gather(message, body, bytes_max).await?;
    }
    let length = check_prefix(&message, bytes_max)?;
    if !body.is_end_stream() && next_data(body).await?.is_some_and(|more| !more.is_empty())
        || message.len() != PREFIX + length
    {
        return Err(Status::internal("grpc: more than one message in a unary request"));
    }
    message.advance(PREFIX);
    Q::decode(message).map_err(|error| {
        Status::internal(format!("grpc: failed to unmarshal the received message: {error}"))
    })
}

/// Copies frames together until the message that `start` begins is complete.
async fn gather(start: Bytes, body: &mut Incoming, bytes_max: usize) -> Result<Bytes, Status> {
    let mut whole = BytesMut::from(start);
    loop {
        if whole.len() >= PREFIX {
            let wanted = PREFIX + check_prefix(&whole, bytes_max)?;
            if whole.len() >= wanted {
                return Ok(whole.freeze());
            }
            whole.reserve(wanted - whole.len());
        }
        match next_data(body).await? {
            Some(data) => whole.extend_from_slice(&data),
            None => return Err(Status::internal("grpc: the request ended inside a message")),
        }
    }
}

/// The length that a prefix announces. `bytes` has at least [`PREFIX`] bytes.
fn check_prefix(bytes: &[u8], bytes_max: usize) -> Result<usize, Status> {
    if bytes[0] != 0 {
        return Err(Status::unimplemented("grpc: compressed messages are not supported"));
    }
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if length > bytes_max {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {bytes_max})"
        )));
    }
    Ok(length)
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Status> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Status::cancelled(format!("grpc: {error}"))),
            Some(Ok(frame)) => {
                // Trailers of a client carry nothing.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The response to a unary request.
pub(super) fn reply<A: Message>(answer: Result<A, Status>) -> Response<Body> {
    match answer {
        Ok(answer) => {
            let length = answer.encoded_len();
            let mut bytes = BytesMut::with_capacity(PREFIX + length);
            bytes.put_u8(0);
            bytes.put_u32(u32::try_from(length).expect("answers are bounded far below 4 GiB"));
            answer.encode(&mut bytes).expect("the buffer has room for encoded_len bytes");
            let mut response = Response::new(Body::Message(bytes.freeze()));
            response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
            response
        }
        Err(status) => status.into_http(),
    }
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");

/// The body of a response.
#[derive(Default)]
pub enum Body {
    /// Nothing (more).
    #[default]
    Empty,
    /// One gRPC message, then [`Body::Success`].
    Message(Bytes),
    /// The trailers that say "ok".
    Success,
    /// The whole of a plain HTTP response.
    Plain(Bytes),
    /// A gRPC stream.
    Stream(tonic::body::Body),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Self::Stream(body) = &mut *self {
            return Pin::new(body).poll_frame(context);
        }
        Poll::Ready(match std::mem::take(&mut *self) {
            Self::Empty | Self::Stream(_) => None,
            Self::Message(bytes) => {
                *self = Self::Success;
                Some(Ok(Frame::data(bytes)))
            }
            Self::Success => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", OK);
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::Plain(bytes) => Some(Ok(Frame::data(bytes))),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Message(_) | Self::Success | Self::Plain(_) => false,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Success => SizeHint::with_exact(0),
            Self::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // No content-length: trailers follow.
            Self::Message(_) => SizeHint::default(),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_bounded() {
        let cases: [(&str, Option<Duration>); 8] = [
            ("1S", Some(Duration::from_secs(1))),
            ("200m", Some(Duration::from_millis(200))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("2M", Some(Duration::from_mins(2))),
            ("123456789S", None),
            ("S", None),
            ("5x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
        }
        let mut headers = HeaderMap::new();
        let default = Duration::from_secs(7);
        assert_eq!(Call::from_headers(&headers, default).timeout, default);
        headers.insert("grpc-timeout", HeaderValue::from_static("10H"));
        headers.insert("hasleader", HeaderValue::from_static("true"));
        let call = Call::from_headers(&headers, default);
        assert_eq!(call, Call { timeout: TIMEOUT_MAX, require_leader: true });
    }

    #[test]
    fn a_prefix_is_checked_before_the_message_is_read() {
        assert_eq!(check_prefix(&[0, 0, 0, 1, 0], 256).ok(), Some(256));
        let too_large = check_prefix(&[0, 0, 0, 1, 1], 256).expect_err("257 bytes");
        assert_eq!(too_large.message(), "grpc: received message larger than max (257 vs. 256)");
        assert_eq!(too_large.code(), tonic::Code::ResourceExhausted);
        let compressed = check_prefix(&[1, 0, 0, 0, 1], 256).expect_err("compressed");
        assert_eq!(compressed.code(), tonic::Code::Unimplemented);
    }
}
