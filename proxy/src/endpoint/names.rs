//! The addresses of the names that policies give, kept up to date in the background.
//!
//! A connection never waits for DNS: it arrives with an address, and the question is only whether that address is one
//! of a name's. An address stays known for a while after the last answer that had it, because names with many
//! addresses answer with some of them at a time, and applications keep addresses longer than they should.

use super::Addresses;
use crate::policy::Host;
use hickory_resolver::{
    TokioResolver,
    lookup_ip::LookupIp,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{ProtoError, rr::Name},
    system_conf::parse_resolv_conf,
};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long an address stays known after the last answer that had it.
const MEMORY: Duration = Duration::from_mins(5);
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
const LONGEST_REFRESH: Duration = Duration::from_secs(30);
/// After a failed lookup.
const RETRY: Duration = Duration::from_secs(2);
/// How long the first answers are waited for at start.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// How many addresses of one name are known at a time.
const MAX_ADDRESSES: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no resolver configuration: {message}")]
    Parse { path: PathBuf, message: String },
}

/// The known addresses of every name in force. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Names(Rc<Inner>);

#[derive(Default)]
struct Inner {
    published: Addresses,
    addresses: RefCell<HashMap<Host, HashMap<IpAddr, Instant>>>,
    watches: RefCell<HashMap<Host, JoinHandle<()>>>,
}

/// A resolver as a file in the format of resolv.conf(5) describes it. `/etc/hosts` comes first, as everywhere.
pub fn resolver(resolv_conf: &Path) -> Result<Rc<TokioResolver>, NamesError> {
    let path = resolv_conf.to_owned();
    let text = fs::read(resolv_conf).map_err(|source| NamesError::Read { path: path.clone(), source })?;
    let parse = |message: String| NamesError::Parse { path: path.clone(), message };
    let (config, options) = parse_resolv_conf(text).map_err(|error| parse(error.to_string()))?;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map(Rc::new)
        .map_err(|error| parse(error.to_string()))
}

impl Names {
    /// The same for every thread.
    #[must_use]
    pub fn published(&self) -> &Addresses {
        &self.0.published
    }

    /// Whether any address of the host is known.
    #[must_use]
    pub fn knows(&self, host: &Host) -> bool {
        self.0.addresses.borrow().get(host).is_some_and(|known| !known.is_empty())
    }

    /// Whether `address` is known as one of the host's.
    #[must_use]
    pub fn has(&self, host: &Host, address: IpAddr) -> bool {
        self.0.addresses.borrow().get(host).is_some_and(|known| known.contains_key(&address))
    }

    /// The known addresses of a host, in a stable order.
    #[must_use]
    pub fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        let known = self.0.addresses.borrow();
        let mut addresses: Vec<IpAddr> =
            known.get(host).map(|known| known.keys().copied().collect()).unwrap_or_default();
        addresses.sort_unstable();
        addresses
    }

    /// Watches these hosts from now on, and no others. The future waits a moment for the first answers about new ones.
    pub fn watch(&self, resolver: &Rc<TokioResolver>, hosts: Vec<Host>) -> impl Future<Output = ()> + use<> {
        let hosts: HashSet<Host> = hosts.into_iter().collect();
        self.0.watches.borrow_mut().retain(|host, watch| {
            let keep = hosts.contains(host);
            if !keep {
                watch.abort();
                self.0.addresses.borrow_mut().remove(host);
                self.0.published.forget(host);
            }
            keep
        });
        let (answered, mut answers) = tokio::sync::mpsc::channel(1);
        for host in hosts {
            let mut watches = self.0.watches.borrow_mut();
            watches.entry(host).or_insert_with_key(|host| {
                let follow = follow(self.clone(), Rc::clone(resolver), host.clone(), answered.clone());
                tokio::task::spawn_local(follow)
            });
        }
        drop(answered);
        async move {
            // Ends when every watch has dropped its sender: after its first answer, or its first failure.
            let _ = timeout(FIRST_ANSWERS, answers.recv()).await;
        }
    }

    fn learn(&self, host: &Host, addresses: impl Iterator<Item = IpAddr>) {
        let now = Instant::now();
        let mut all = self.0.addresses.borrow_mut();
        let known = all.entry(host.clone()).or_default();
        known.retain(|_, seen| now.duration_since(*seen) < MEMORY);
        for address in addresses {
            if known.len() < MAX_ADDRESSES || known.contains_key(&address) {
                known.insert(address.to_canonical(), now);
            }
        }
        let mut addresses: Vec<_> = known.keys().copied().collect();
        addresses.sort_unstable();
        self.0.published.publish(host, addresses);
    }
}

async fn lookup(resolver: &TokioResolver, host: &Host) -> Result<LookupIp, NetError> {
    resolver.lookup_ip(whole(host)?).await
}

/// The dot keeps the resolver from trying its search domains: a policy names the host in full. It is read as ASCII, because a
/// text of any script may have no `_` in it.
fn whole(host: &Host) -> Result<Name, ProtoError> {
    Name::from_ascii(format!("{}.", host.as_str()))
}

async fn follow(
    names: Names,
    resolver: Rc<TokioResolver>,
    host: Host,
    first_answer: tokio::sync::mpsc::Sender<()>,
) {
    let mut first_answer = Some(first_answer);
    let mut was_failing = false;
    loop {
        let pause = match lookup(&resolver, &host).await {
            Ok(answer) => {
                names.learn(&host, answer.iter());
                was_failing = false;
                let valid = answer.valid_until().saturating_duration_since(std::time::Instant::now());
                valid.clamp(SHORTEST_REFRESH, LONGEST_REFRESH)
            }
            Err(error) => {
                if !was_failing {
                    tracing::warn!(host = host.as_str(), %error, "cannot resolve a policy's host name");
                }
                was_failing = true;
                RETRY
            }
        };
        drop(first_answer.take());
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::whole;

    /// Kuma calls a service `backend_shop_svc_80.mesh`.
    #[test]
    fn every_host_of_a_policy_can_be_asked_for() {
        for host in ["backend_shop_svc_80.mesh", "db.shop.example", "xn--bcher-kva.example", "_tcp.a", "a"] {
            let name = whole(&host.parse().unwrap()).unwrap();
            assert_eq!((name.to_ascii(), name.is_fqdn()), (format!("{host}."), true));
        }
    }
}
