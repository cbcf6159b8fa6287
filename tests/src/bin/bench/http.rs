//! What the HTTP cases are made of: the messages, which client and server write as ready bytes, and both of them.

pub mod client;
pub mod faults;
pub mod head;
pub mod hyper;
pub mod idle;
pub mod server;
pub mod streams;

use std::time::Duration;

/// Where the server speaks HTTP/1, and where every explicit proxy does.
pub const PORT: u16 = 8000;
/// The same for HTTP/2 with prior knowledge.
pub const PORT_H2: u16 = 8001;

/// What a client of gRPC calls.
pub const GRPC_PATH: &str = "/bench.Echo/Unary";
/// Its message, and the answer's.
pub const GRPC_MESSAGE: &[u8] = b"\0\0\0\0\x10................";

/// What a client was answered with.
#[derive(Debug, Default)]
pub struct Answers {
    /// How long each request took.
    pub took: Vec<Duration>,
    /// How many of them were answered with 503.
    pub failed: u64,
}

/// What is asked for, and what it is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// A few bytes.
    Small,
    /// 64 KiB.
    Large,
    /// 16 KiB are sent, and answered with a few bytes.
    Post,
}

const SMALL: usize = 13;
const LARGE: usize = 64 * 1024;
const POSTED: usize = 16 * 1024;

impl Answers {
    fn add(&mut self, took: Duration, has_failed: bool) {
        self.took.push(took);
        self.failed += u64::from(has_failed);
    }

    fn extend(&mut self, other: Self) {
        self.took.extend(other.took);
        self.failed += other.failed;
    }
}

impl Exchange {
    pub const ALL: [Self; 3] = [Self::Small, Self::Large, Self::Post];

    pub fn path(self) -> &'static str {
        match self {
            Self::Small => "/small",
            Self::Large => "/large",
            Self::Post => "/post",
        }
    }

    /// The bytes of a request, as a common client writes it, with more headers.
    pub fn request(self, more: &str) -> Vec<u8> {
        let (method, path) = (if self == Self::Post { "POST" } else { "GET" }, self.path());
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\
             Accept-Encoding: gzip, deflate\r\n{more}"
        );
        match self {
            Self::Small | Self::Large => request.push_str("\r\n"),
            Self::Post => {
                request.push_str("Content-Type: application/octet-stream\r\n");
                request.extend(["Content-Length: ", &POSTED.to_string(), "\r\n\r\n"]);
                request.extend(std::iter::repeat_n('.', POSTED));
            }
        }
        request.into_bytes()
    }

    /// The bytes of the response.
    pub fn response(self) -> Vec<u8> {
        let length = self.answered();
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
             Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.into_bytes(), vec![b'.'; length]].concat()
    }

    /// How long the response's body is.
    pub fn answered(self) -> usize {
        match self {
            Self::Small | Self::Post => SMALL,
            Self::Large => LARGE,
        }
    }
}
