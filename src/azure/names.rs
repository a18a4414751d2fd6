//! Names and tags of what a run makes in Azure. Pure: the same run gives the same names, in whatever process.
//!
//! ```text
//! readable part, cut to fit ─ ten characters of digest
//! web01-disk0-failover-7      x2k4m7q3ab
//! ```
//! The digest is over site, run and the whole parts, so that two runs, and two disks whose names are cut or cleaned
//! alike, never share a name: a request of an older run that arrives late finds nothing of a newer one. Lengths and
//! characters: Azure's *naming rules and restrictions for resources*; the strictest of them (letters, digits, hyphens)
//! for all.

use std::collections::BTreeMap;

use data_encoding::BASE32_NOPAD;

use crate::azure::id::ResourceKind;
use crate::report::Code;

/// Characters of the digest: 50 bits.
const DIGEST: usize = 10;
/// A resource has at most so many tags.
const TAGS_MAX: usize = 50;
/// Characters of a tag's name; storage accounts are stricter, and are not made here.
const TAG_NAME_MAX: usize = 512;
const TAG_VALUE_MAX: usize = 256;

/// The tags that say whose a resource is.
pub const TAG_SITE: &str = "site-recovery-site";
pub const TAG_PLAN: &str = "site-recovery-plan";
pub const TAG_VM: &str = "site-recovery-vm";
pub const TAG_RUN: &str = "site-recovery-run";
pub const TAG_EPOCH: &str = "site-recovery-epoch";

/// For which run of which plan a resource is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Namespace and name of the site, and what tells two clusters apart.
    pub site: String,
    pub plan: Option<String>,
    /// Namespace and name of the ProtectedVM.
    pub vm: String,
    /// Namespace and name of the run, or its identity: unique for ever within the site.
    pub run: String,
    pub epoch: u64,
}

/// Tags that Azure would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTags {
    #[error("{count} tags are more than the {TAGS_MAX} that a resource can have")]
    TooMany { count: usize },
    #[error(
        "`{name}` cannot be the name of a tag: 1 to 512 characters without <, >, %, &, \\, ? and /"
    )]
    Name { name: String },
    #[error("the value of tag `{name}` is longer than 256 characters")]
    Value { name: String },
    #[error("tag `{name}` says whose a resource is, and is set by site-recovery alone")]
    Ours { name: String },
}

impl BadTags {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

impl Owner {
    /// The name of what this run makes for `parts` of the VM: a disk's id, an adapter's, nothing for the only one.
    pub fn name(&self, kind: ResourceKind, vm: &str, parts: &[&str]) -> String {
        let mut whole = vec![self.site.as_str(), self.run.as_str(), self.vm.as_str(), vm];
        whole.extend(parts);
        let mut hasher = blake3::Hasher::new();
        for part in &whole {
            // A length before each keeps two lists apart that read alike.
            hasher
                .update(&part.len().to_le_bytes())
                .update(part.as_bytes());
        }
        let mut digest = BASE32_NOPAD.encode(hasher.finalize().as_bytes());
        digest.truncate(DIGEST);
        let run = self.run.rsplit('/').next().unwrap_or_default();
        let readable: Vec<String> = [vm]
            .iter()
            .chain(parts)
            .chain([&run])
            .map(|part| clean(part))
            .filter(|part| !part.is_empty())
            .collect();
        let mut name = readable.join("-");
        name.truncate(longest(kind) - DIGEST - 1);
        let name = name.trim_end_matches('-');
        match name {
            "" => format!("r-{}", digest.to_ascii_lowercase()),
            name => format!("{name}-{}", digest.to_ascii_lowercase()),
        }
    }

    /// The tags of what this run makes: those that say whose it is, and `more`, which are the user's.
    ///
    /// # Errors
    /// If Azure would refuse them, or one of the user's is one of ours.
    pub fn tags(
        &self,
        more: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, BadTags> {
        let mut tags = self.own_tags();
        for (name, value) in more {
            let ours = [TAG_SITE, TAG_PLAN, TAG_VM, TAG_RUN, TAG_EPOCH];
            if ours.iter().any(|tag| tag.eq_ignore_ascii_case(name)) {
                return Err(BadTags::Ours { name: name.clone() });
            }
            let length = name.chars().count();
            if !(1..=TAG_NAME_MAX).contains(&length)
                || name.contains(['<', '>', '%', '&', '\\', '?', '/'])
            {
                return Err(BadTags::Name {
                    name: name.chars().take(80).collect(),
                });
            }
            if value.chars().count() > TAG_VALUE_MAX {
                return Err(BadTags::Value { name: name.clone() });
            }
            tags.insert(name.clone(), value.clone());
        }
        match tags.len() {
            0..=TAGS_MAX => Ok(tags),
            count => Err(BadTags::TooMany { count }),
        }
    }

    fn own_tags(&self) -> BTreeMap<String, String> {
        let tags = [
            (TAG_SITE, Some(self.site.clone())),
            (TAG_PLAN, self.plan.clone()),
            (TAG_VM, Some(self.vm.clone())),
            (TAG_RUN, Some(self.run.clone())),
            (TAG_EPOCH, Some(self.epoch.to_string())),
        ];
        let cut = |value: String| value.chars().take(TAG_VALUE_MAX).collect();
        tags.into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), cut(value?))))
            .collect()
    }

    /// Whether tags say that a resource is this run's. Azure keeps the case of a tag's name and does not tell it apart.
    pub fn owns(&self, tags: &BTreeMap<String, String>) -> bool {
        let said = |wanted: &str| {
            let found = tags
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str())
        };
        let own = self.own_tags();
        [TAG_SITE, TAG_VM, TAG_RUN]
            .iter()
            .all(|tag| said(tag) == own.get(*tag).map(String::as_str))
    }
}

/// The longest name of this type.
const fn longest(kind: ResourceKind) -> usize {
    match kind {
        // Of Windows and Linux machines alike, as a resource; the guest's own name stays what the disk holds.
        ResourceKind::VirtualMachine => 64,
        ResourceKind::Disk
        | ResourceKind::Snapshot
        | ResourceKind::AvailabilitySet
        | ResourceKind::DiskEncryptionSet
        | ResourceKind::NetworkInterface
        | ResourceKind::PublicAddress
        | ResourceKind::SecurityGroup
        | ResourceKind::Subnet => 80,
        ResourceKind::VirtualNetwork => 64,
        ResourceKind::StorageAccount => 24,
    }
}

/// Lower-case letters and digits, everything else a hyphen, none of them at an end or doubled.
fn clean(part: &str) -> String {
    let words = part.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn owner(run: &str) -> Owner {
        Owner {
            site: "prod/berlin".into(),
            plan: Some("prod/shop".into()),
            vm: "prod/web01".into(),
            run: run.into(),
            epoch: 7,
        }
    }

    #[test]
    fn a_name_is_read_by_people_and_the_same_in_every_process() {
        let name = owner("prod/failover-7").name(ResourceKind::Disk, "Web 01", &["disk_0"]);
        let (readable, digest) = name.rsplit_once('-').unwrap();
        assert_eq!(
            (readable, digest.len()),
            ("web-01-disk-0-failover-7", DIGEST)
        );
        assert_eq!(
            name,
            owner("prod/failover-7").name(ResourceKind::Disk, "Web 01", &["disk_0"])
        );
    }

    #[test]
    fn no_two_runs_and_no_two_parts_share_a_name() {
        let long = "x".repeat(200);
        let names = [
            owner("prod/a").name(ResourceKind::Disk, &long, &["1"]),
            owner("prod/a").name(ResourceKind::Disk, &long, &["2"]),
            owner("prod/b").name(ResourceKind::Disk, &long, &["1"]),
            owner("test/a").name(ResourceKind::Disk, &long, &["1"]),
            owner("prod/a").name(ResourceKind::Disk, &long, &["1", ""]),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }

    proptest! {
        #[test]
        fn whatever_people_call_things_azure_takes_the_name(vm in any::<String>(), part in any::<String>()) {
            for kind in [ResourceKind::VirtualMachine, ResourceKind::Disk, ResourceKind::NetworkInterface] {
                let name = owner("prod/run").name(kind, &vm, &[&part]);
                let bytes = name.as_bytes();
                assert!(name.len() <= longest(kind), "{name}");
                assert!(bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-'), "{name}");
                assert!(bytes[0].is_ascii_alphanumeric() && bytes[name.len() - 1].is_ascii_alphanumeric(), "{name}");
            }
        }
    }

    #[test]
    fn only_the_run_that_made_a_resource_owns_it() {
        let mut tags = owner("prod/a").tags(&BTreeMap::new()).unwrap();
        assert!(owner("prod/a").owns(&tags));
        assert!(!owner("prod/b").owns(&tags));
        let run = tags.remove(TAG_RUN).unwrap();
        assert!(!owner("prod/a").owns(&tags));
        tags.insert(TAG_RUN.to_uppercase(), run);
        assert!(
            owner("prod/a").owns(&tags),
            "Azure does not tell case apart"
        );
    }

    #[test]
    fn tags_that_azure_would_refuse_are_refused_by_name() {
        let tags = |name: &str, value: &str| {
            let more = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            owner("prod/a").tags(&more)
        };
        assert!(tags("cost centre", "42").is_ok());
        assert!(matches!(tags("a/b", ""), Err(BadTags::Name { .. })));
        assert!(matches!(
            tags("a", &"x".repeat(257)),
            Err(BadTags::Value { .. })
        ));
        assert!(matches!(
            tags("Site-Recovery-Run", "x"),
            Err(BadTags::Ours { .. })
        ));
        let many = (0..46).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(
            owner("prod/a").tags(&many),
            Err(BadTags::TooMany { count: 51 })
        );
    }
}
