//! A pod's UID, as the API and the names of cgroups have it.

use std::fmt::{self, Display, Formatter};

/// 128 bits: a UUID, or the hash that a static pod has in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(u128);

impl PodUid {
    /// 32 hexadecimal digits, with `-` or `_` between them where a UUID has its dashes, or without.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut digits = String::with_capacity(32);
        for (index, character) in text.chars().enumerate() {
            match character {
                '-' | '_' if text.len() == 36 && matches!(index, 8 | 13 | 18 | 23) => {}
                character if character.is_ascii_hexdigit() => digits.push(character),
                _ => return None,
            }
        }
        if digits.len() != 32 {
            return None;
        }
        u128::from_str_radix(&digits, 16).ok().map(Self)
    }

    /// The pod whose cgroup has this name, under any driver: `pod<uid>`, `kubepods-burstable-pod<uid>.slice`.
    #[must_use]
    pub fn of_cgroup(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".slice").unwrap_or(name);
        let (before, uid) = name.rsplit_once("pod")?;
        if before.is_empty() || before.ends_with('-') { Self::parse(uid) } else { None }
    }
}

impl Display for PodUid {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let part = |range| digits.get(range).unwrap_or_default();
        write!(f, "{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
    }
}

#[cfg(test)]
mod tests {
    use super::PodUid;

    const UID: &str = "0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5";

    #[test]
    fn every_drivers_name_is_read() {
        let expected = PodUid::parse(UID).unwrap();
        assert_eq!(expected.to_string(), UID);
        for name in [
            "pod0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5",
            "kubepods-pod0c9e1bd4_5d0f_4a3b_9d0e_52f1c2a3b4c5.slice",
            "kubepods-burstable-pod0c9e1bd4_5d0f_4a3b_9d0e_52f1c2a3b4c5.slice",
            "kubelet-kubepods-besteffort-pod0c9e1bd4_5d0f_4a3b_9d0e_52f1c2a3b4c5.slice",
            // A static pod's, were its hash the same.
            "pod0c9e1bd45d0f4a3b9d0e52f1c2a3b4c5",
        ] {
            assert_eq!(PodUid::of_cgroup(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn other_cgroups_are_no_pods() {
        for name in [
            "",
            "pod",
            "kubepods",
            "kubepods.slice",
            "kubepods-burstable.slice",
            "system.slice",
            "pod0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c",
            "pod0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5-x",
            "xpod0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5",
            "pod0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4cg",
            "pod0c9e1bd45d0f-4a3b-9d0e-52f1-c2a3b4c5",
            "podßc9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c",
            "cri-containerd-4f2c1f1c4d3b2a190c9e1bd45d0f4a3b9d0e52f1c2a3b4c5.scope",
        ] {
            assert_eq!(PodUid::of_cgroup(name), None, "{name}");
        }
    }
}
