//! What policies are called in another format: as before, but for what no name may have, and for names that two would have.

use std::collections::{BTreeSet, HashMap};

use super::Comment;
use crate::policy::{Address, Destination, Policy, PolicyName};

/// The names of all policies, in their order.
pub(super) fn all(policies: &[Policy]) -> Vec<PolicyName> {
    // What has a native name keeps it, whatever else there is.
    let natives = policies.iter().filter(|policy| policy.name.kind().is_none());
    let mut taken: BTreeSet<_> = natives.map(|policy| policy.name.clone()).collect();
    policies.iter().map(|policy| name(policy, &mut taken)).collect()
}

fn name(policy: &Policy, taken: &mut BTreeSet<PolicyName>) -> PolicyName {
    let Some(kind) = policy.name.kind() else { return policy.name.clone() };
    let namespace = policy.name.namespace();
    let kept = namespace.filter(|namespace| PolicyName::try_new(Some(namespace), "a").is_ok());
    // A namespace of another shape becomes part of the name.
    let folded = namespace.filter(|_| kept.is_none()).map(|namespace| format!("{namespace}-"));
    let base = plain(&format!("{}{}", folded.unwrap_or_default(), policy.name.name()));
    let kind = plain(kind);
    let several = (2_u32..).map(|number| format!("{base}-{kind}-{number}"));
    let candidates = [base.clone(), format!("{base}-{kind}")].into_iter().chain(several);
    let free = candidates
        .filter_map(|candidate| PolicyName::try_new(kept, &candidate).ok())
        .find(|name| !name.is_default() && !taken.contains(name));
    let name = free.unwrap_or_default();
    taken.insert(name.clone());
    name
}

/// A text as a name of Kubernetes, short enough for something behind it.
pub(super) fn plain(text: &str) -> String {
    const MAX: usize = 200;
    let lower = text.chars().map(|c| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' => c,
        _ => '-',
    });
    let lower: String = lower.take(MAX).collect();
    let words = lower.split('.').map(|label| {
        let words: Vec<_> = label.split('-').filter(|word| !word.is_empty()).collect();
        words.join("-")
    });
    let labels: Vec<_> = words.filter(|label| !label.is_empty()).collect();
    if labels.is_empty() { "policy".to_owned() } else { labels.join(".") }
}

/// Where names decide between policies for the same destination, and did so otherwise before.
pub(super) fn disorder(policies: &[Policy], names: &[PolicyName]) -> Vec<(usize, Comment)> {
    const EVERYWHERE: Destination = Destination { address: Address::Any, port: None };
    let mut order: Vec<_> = policies.iter().zip(names).enumerate().collect();
    order.sort_by_key(|(_, (policy, _))| &policy.name);
    let mut last: HashMap<&Destination, &PolicyName> = HashMap::new();
    let mut found: Vec<(usize, Comment)> = Vec::new();
    for (index, (policy, name)) in order {
        let to = if policy.to.is_empty() { &[EVERYWHERE][..] } else { &policy.to };
        for destination in to {
            if let Some(before) = last.get(destination).filter(|before| **before > name)
                && found.last().is_none_or(|(known, _)| *known != index)
            {
                let text = format!(
                    "{}: where nothing else decides between it and {before} the name does, which puts it first here, and \
                     second there",
                    policy.origin
                );
                found.push((index, Comment::lost(text)));
            }
        }
        last.extend(to.iter().map(|destination| (destination, name)));
    }
    found
}
