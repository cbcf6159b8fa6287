//! `redial explain`: what holds for a request, and why.

mod answer;
mod settings;
mod timeline;
mod words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use http::Uri;

use super::options::{DialectOptions, identity};
use super::{answer, complain};
use crate::dialect;
use crate::policy::{Headers, Host, Identity, Resolution, Table};
use answer::Answer;

/// Show which policy and route hold for a request, with every setting and where it is from, and how long it may take
///
/// Exits with 0; with 1 where the documents have errors; and with 2 where the command line is wrong or a path can't be
/// read.
#[derive(Args, Debug)]
#[command(allow_missing_positional = true)]
pub struct Arguments {
    /// A policy file, or a folder of them; may be repeated
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,

    #[command(flatten)]
    dialect: DialectOptions,

    /// What the workload is to policies that ask, as `redial exec --as` has it
    #[arg(long = "as", value_name = "LABELS", value_parser = identity)]
    identity: Option<Arc<Identity>>,

    /// Where the connection is dialled to [default: the URL's host, which is taken to resolve to an address of no network]
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,

    /// A header of the request, as `Name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,

    /// How the answer is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// The request's method [default: GET]
    method: Option<String>,

    /// Where the request is sent to, such as `http://shop.example/cart`
    url: String,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// A request as it would be sent, and where the connection goes.
#[derive(Clone, Debug)]
struct Request {
    host: String,
    destination: SocketAddr,
    has_address: bool,
    is_tls: bool,
    /// The pseudo-headers among them; names in lower case.
    headers: Vec<(String, String)>,
}

/// What clap exits with for a wrong command line.
const USAGE: u8 = 2;

impl Arguments {
    pub fn run(self) -> ExitCode {
        let method = self.method.as_deref().unwrap_or("GET");
        let request = match Request::new(method, &self.url, self.address, &self.headers) {
            Ok(request) => request,
            Err(message) => {
                complain(format_args!("redial: {message}"));
                return ExitCode::from(USAGE);
            }
        };
        let table = match dialect::load_with(&self.config, self.dialect.get()) {
            Ok(loaded) => Arc::new(loaded.table),
            Err(error) => {
                complain(&error);
                return ExitCode::from(if error.is_unreadable() { USAGE } else { 1 });
            }
        };
        let holds = request.answer(&table, self.identity.as_ref());
        match self.format {
            Format::Text => answer(holds.text(), ExitCode::SUCCESS),
            Format::Json => answer(format_args!("{:#}\n", holds.json()), ExitCode::SUCCESS),
        }
    }
}

impl Request {
    fn new(
        method: &str,
        url: &str,
        address: Option<SocketAddr>,
        headers: &[(String, String)],
    ) -> Result<Self, String> {
        let wrong = || format!("expected a URL such as http://shop.example/cart, found {url:?}");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            Some(_) | None => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let named = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let port = uri.port_u16().unwrap_or(default_port);
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let destination = address.unwrap_or_else(|| SocketAddr::new(named.unwrap_or(nowhere), port));
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let of_url = [
            (":method", method),
            (":scheme", uri.scheme_str().unwrap_or_default()),
            (":authority", authority),
            (":path", path),
        ];
        let mut all: Vec<_> =
            of_url.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        for (name, value) in headers {
            match all.iter_mut().find(|(known, _)| name == "host" && known == ":authority") {
                Some((_, authority)) => authority.clone_from(value),
                None => all.push((name.clone(), value.clone())),
            }
        }
        let has_address = address.is_some() || named.is_some();
        let is_tls = default_port == 443;
        Ok(Self { host: host.to_owned(), destination, has_address, is_tls, headers: all })
    }

    fn answer(&self, table: &Arc<Table>, identity: Option<&Arc<Identity>>) -> Answer {
        let cgroup = Arc::from("");
        let matched = table.lookup(self.destination, &cgroup, identity, self);
        Answer::new(self, &matched, &table.router(self.destination, &cgroup, identity, self))
    }
}

/// Hosts that the URL does not name are taken to have other addresses.
impl Resolution for Request {
    fn hosts_at(&self, _: IpAddr, visit: &mut dyn FnMut(&Host)) {
        self.host.parse().iter().for_each(visit);
    }

    fn unresolved(&self, _: &mut dyn FnMut(&Host)) {}
}

impl Headers for Request {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        values.all(|(_, value)| visit(value.as_bytes()));
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once(':').filter(|(name, _)| !name.trim().is_empty());
    let (name, value) = pair.ok_or_else(|| "expected a header such as `Name: value`".to_owned())?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests;
