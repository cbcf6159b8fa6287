//! The order in which the attempts of one connection go to the endpoints. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Endpoints;

/// How many endpoints of a target a connection keeps in mind. Few see as many attempts.
const MAX_CHOICE: usize = 32;

/// The endpoints of one connection. The first attempt goes where the application wanted to go; each retry prefers
/// one that was not tried yet.
#[derive(Clone, Debug)]
pub struct Choice {
    endpoints: Arc<[SocketAddr]>,
    next: usize,
}

/// A target's endpoints, and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    pub weight: u32,
    pub endpoints: Endpoints,
}

impl Choice {
    /// The endpoints of targets: of one that is drawn by weight, then of another that is drawn among the rest, and so on;
    /// those of weight 0 are left out. Among a target's endpoints that are as near each is first as often. `draw` draws a
    /// number below its argument, which is not 0.
    #[must_use]
    pub fn weighted(mut targets: Vec<Weighted>, draw: &mut dyn FnMut(u32) -> u32) -> Self {
        targets.retain(|target| target.weight > 0 && !target.endpoints.is_empty());
        let mut endpoints = Vec::new();
        while !targets.is_empty() {
            let sum = targets.iter().fold(0_u32, |sum, target| sum.saturating_add(target.weight));
            let mut left = draw(sum);
            let drawn = targets.iter().position(|target| {
                let is_here = left < target.weight;
                left = left.saturating_sub(target.weight);
                is_here
            });
            let Endpoints { near, far } = targets.remove(drawn.unwrap_or_default()).endpoints;
            let mut room = MAX_CHOICE;
            for list in [near, far].iter().filter(|list| !list.is_empty()) {
                let first = u32::try_from(list.len()).map_or(0, &mut *draw);
                let first = usize::try_from(first).unwrap_or_default();
                for endpoint in list.iter().cycle().skip(first).take(list.len().min(room)) {
                    if !endpoints.contains(endpoint) {
                        endpoints.push(*endpoint);
                    }
                }
                room = room.saturating_sub(list.len());
            }
        }
        Self { endpoints: endpoints.into(), next: 0 }
    }

    /// Whether there is nowhere to go.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Addresses of the other family are left out: the application could tell.
    #[must_use]
    pub fn new(original: SocketAddr, others: impl IntoIterator<Item = IpAddr>) -> Self {
        let same_family = |address: &IpAddr| address.is_ipv4() == original.is_ipv4();
        let others = others.into_iter().filter(same_family).filter(|address| *address != original.ip());
        let endpoints = std::iter::once(original)
            .chain(others.map(|address| SocketAddr::new(address, original.port())))
            .collect();
        Self { endpoints, next: 0 }
    }

    /// The same endpoints, from this one on, which comes before them where it is none of them.
    #[must_use]
    pub fn starting_at(mut self, endpoint: Option<SocketAddr>) -> Self {
        let Some(endpoint) = endpoint else { return self };
        if let Some(position) = self.endpoints.iter().position(|one| *one == endpoint) {
            self.next = position;
        } else {
            self.endpoints = std::iter::once(endpoint).chain(self.endpoints.iter().copied()).collect();
            self.next = 0;
        }
        self
    }

    /// The endpoint of the attempt before, or of the first one before there is any. There must be one.
    #[must_use]
    pub fn same_endpoint(&self) -> SocketAddr {
        self.endpoints[self.next.saturating_sub(1) % self.endpoints.len()]
    }

    /// The endpoint for the next attempt. After the last one it is the first one's turn again. There must be one.
    pub fn next_endpoint(&mut self) -> SocketAddr {
        let endpoint = self.endpoints[self.next % self.endpoints.len()];
        self.next = self.next.wrapping_add(1);
        endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::{Choice, Endpoints, MAX_CHOICE, Weighted};
    use std::{net::SocketAddr, sync::Arc};

    #[test]
    fn every_address_is_tried_before_one_is_tried_again() {
        let original: SocketAddr = "10.0.0.2:80".parse().unwrap();
        let others = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "10.0.0.3"].map(|text| text.parse().unwrap());
        let mut choice = Choice::new(original, others);
        let order: Vec<String> = (0..5).map(|_| choice.next_endpoint().to_string()).collect();
        assert_eq!(order, ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.3:80", "10.0.0.2:80", "10.0.0.1:80"]);
    }

    #[test]
    fn a_target_gets_its_share_and_the_others_are_what_is_left() {
        let target = |weight, addresses: &[&str]| Weighted {
            weight,
            endpoints: Endpoints {
                near: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                far: Arc::default(),
            },
        };
        let targets = [
            target(3, &["10.0.0.1:80", "10.0.0.2:80"]),
            target(0, &["10.0.0.3:80"]),
            target(1, &["10.0.0.4:80", "10.0.0.1:80"]),
            target(9, &[]),
        ];
        let order = |draws: [u32; 4]| {
            let mut draws = draws.into_iter();
            let mut choice = Choice::weighted(targets.to_vec(), &mut |below| {
                draws.next().unwrap_or_default().min(below - 1)
            });
            (0..4).map(|_| choice.next_endpoint().ip().to_string()).collect::<Vec<_>>()
        };
        // Which target, which of its endpoints is first, and the same again.
        assert_eq!(order([0, 0, 0, 0]), ["10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.1"]);
        assert_eq!(order([2, 1, 0, 0]), ["10.0.0.2", "10.0.0.1", "10.0.0.4", "10.0.0.2"]);
        assert_eq!(order([3, 0, 0, 1]), ["10.0.0.4", "10.0.0.1", "10.0.0.2", "10.0.0.4"]);
        assert!(Choice::weighted(vec![target(0, &["10.0.0.1:80"])], &mut |_| 0).is_empty());
        let mut drawn = [0; 4];
        for draw in 0..4 {
            let mut first = true;
            let mut choice = Choice::weighted(targets.to_vec(), &mut |_| {
                if std::mem::take(&mut first) { draw } else { 0 }
            });
            drawn[usize::from(choice.next_endpoint().ip().to_string() == "10.0.0.4")] += 1;
        }
        assert_eq!(drawn, [3, 1, 0, 0], "by weight");
    }

    #[test]
    fn the_first_one_is_put_first_also_where_it_is_none_of_them() {
        let list =
            |count: u16| (0..count).map(|port| SocketAddr::new([10, 0, 0, 1].into(), port + 1)).collect();
        let of = |near, far| {
            let endpoints = Endpoints { near: list(near), far: list(far) };
            Choice::weighted(vec![Weighted { weight: 1, endpoints }], &mut |below| below - 1)
        };
        let ports = |mut choice: Choice, count: usize| {
            (0..count).map(|_| choice.next_endpoint().port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(of(3, 0).starting_at(None), 4), [3, 1, 2, 3]);
        assert_eq!(ports(of(3, 0).starting_at(Some("10.0.0.1:1".parse().unwrap())), 4), [1, 2, 3, 1]);
        assert_eq!(ports(of(3, 0).starting_at(Some("10.0.0.9:9".parse().unwrap())), 5), [9, 3, 1, 2, 9]);
        // The far ones in their own order, from a drawn one on, without those that were near.
        assert_eq!(ports(of(2, 4), 5), [2, 1, 4, 3, 2]);
        assert_eq!(of(40, 9).endpoints.len(), MAX_CHOICE);
        assert_eq!(of(0, 60).endpoints.len(), MAX_CHOICE);
    }
}
