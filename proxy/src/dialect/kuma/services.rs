//! The documents of services, which tell what labels, names of ports and backends mean.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::document::Resource;
use super::target::{Kind, Named};
use crate::dialect::common::some_of;
use crate::dialect::fields::{Field, Problems};
use crate::dialect::note::Code;
use crate::policy::{Host, TargetAddress};

/// All services that documents are about.
#[derive(Default)]
pub(super) struct Services<'a>(Vec<Known<'a>>);

struct Known<'a> {
    kind: Kind,
    resource: Resource<'a>,
    ports: Vec<(Option<&'a str>, NonZeroU16)>,
    /// Where it is, if the document says it.
    address: Option<TargetAddress>,
}

impl<'a> Services<'a> {
    /// Reads a `MeshService` or a `MeshExternalService`.
    pub(super) fn read(
        &mut self,
        resource: &Resource<'a>,
        kind: Kind,
        problems: &mut Problems,
    ) -> Option<()> {
        let (ports, address) = match kind {
            Kind::External => external(resource, problems)?,
            Kind::Service | Kind::MultiZone => (ports(resource, problems)?, None),
        };
        self.0.push(Known { kind, resource: resource.clone(), ports, address });
        Some(())
    }

    /// The services with all of these labels.
    pub(super) fn by_labels(
        &self,
        kind: Kind,
        mesh: &str,
        labels: &Field<'_>,
        problems: &mut Problems,
    ) -> Option<Vec<Named<'a>>> {
        let wanted: Vec<_> = labels.map(problems)?.entries().collect();
        let has_all = |known: &&Known<'a>| {
            known.kind == kind
                && known.resource.mesh == mesh
                && wanted.iter().all(|(name, value)| known.resource.has_label(name, value))
        };
        Some(self.0.iter().filter(has_all).map(|known| known.resource.called()).collect())
    }

    /// The port of a service that has this name.
    pub(super) fn port(&self, kind: Kind, mesh: &str, called: &Named<'_>, name: &str) -> Option<NonZeroU16> {
        let ports = self.find(kind, mesh, called)?.ports.iter();
        ports.filter(|(known, _)| *known == Some(name)).map(|(_, port)| *port).next()
    }

    pub(super) fn address(&self, kind: Kind, mesh: &str, called: &Named<'_>) -> Option<&TargetAddress> {
        self.find(kind, mesh, called)?.address.as_ref()
    }

    fn find(&self, kind: Kind, mesh: &str, called: &Named<'_>) -> Option<&Known<'a>> {
        self.0.iter().find(|known| {
            known.kind == kind && known.resource.mesh == mesh && known.resource.called().is(called)
        })
    }
}

fn ports<'a>(resource: &Resource<'a>, problems: &mut Problems) -> Option<Vec<(Option<&'a str>, NonZeroU16)>> {
    let known = ["ports", "selector", "identities", "state"];
    let spec = resource.spec.map_of(&known, problems)?;
    some_of(&spec, "ports", problems, |field, problems| {
        let map = field.map_of(&["name", "port", "targetPort", "appProtocol"], problems)?;
        let name = map.optional("name", None, |field| field.text(problems).map(Some));
        let port = map.required("port", problems).and_then(|field| port(&field, problems));
        Some((name?, port?))
    })
}

type Outside<'a> = (Vec<(Option<&'a str>, NonZeroU16)>, Option<TargetAddress>);

fn external<'a>(resource: &Resource<'a>, problems: &mut Problems) -> Option<Outside<'a>> {
    let spec = resource.spec.map_ignoring(&["match", "endpoints", "tls"], &["extension"], problems)?;
    if let Some(tls) = spec.get("tls") {
        let message = "requests go to its endpoints as they are: redial makes no TLS of them";
        problems.note(Code::Ignored, &tls.here(), message);
    }
    let found = spec.required("match", problems)?.map_of(&["type", "port", "protocol"], problems)?;
    let match_port = port(&found.required("port", problems)?, problems)?;
    let endpoints = some_of(&spec, "endpoints", problems, |field, problems| {
        let map = field.map_of(&["address", "port"], problems)?;
        let port = map.optional("port", match_port, |field| port(&field, problems));
        let address = map.required("address", problems)?.text(problems)?;
        Some((address, port?))
    })?;
    let addresses =
        endpoints.iter().map(|(address, port)| Some((address.parse::<IpAddr>().ok()?, Some(*port))));
    let address = match (addresses.collect::<Option<Vec<_>>>(), &endpoints[..]) {
        (_, []) => None,
        (Some(addresses), _) => Some(TargetAddress::Addresses(addresses.into())),
        (None, [(host, port)]) => {
            let host = host.parse::<Host>().ok();
            host.map(|host| TargetAddress::Host { host, port: Some(*port) })
        }
        // Names and addresses together, or a socket's path, are nothing that a target can be here.
        (None, _) => None,
    };
    Some((vec![(None, match_port)], address))
}

fn port(field: &Field<'_>, problems: &mut Problems) -> Option<NonZeroU16> {
    let port = field.whole(1..=u16::MAX.into(), problems)?;
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}
