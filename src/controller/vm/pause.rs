//! Whether a VM is replicated at all now: what a human has paused. No I/O.

use crate::api::hyperv_site::HyperVSiteSpec;

/// Who has paused replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// `spec.suspend` of the VM.
    Vm,
    /// `spec.suspend` of its site.
    Site,
    /// Somebody works on its host.
    Maintenance,
}

/// What holds for a VM on `host`. Work on the host is no alarm, so it is said before the others.
pub fn pause(suspended: bool, site: Option<&HyperVSiteSpec>, host: Option<&str>) -> Option<Pause> {
    let worked_on = |host: &str| is_worked_on(site, host);
    if host.is_some_and(worked_on) {
        Some(Pause::Maintenance)
    } else if suspended {
        Some(Pause::Vm)
    } else {
        site.filter(|site| site.suspend).map(|_| Pause::Site)
    }
}

fn is_worked_on(site: Option<&HyperVSiteSpec>, host: &str) -> bool {
    let mut hosts = site.into_iter().flat_map(|site| &site.hosts);
    hosts.any(|listed| listed.name == host && listed.maintenance == Some(true))
}

impl Pause {
    /// What the pause is, and what it costs.
    pub fn said(self, site: &str) -> String {
        let who = match self {
            Pause::Vm => "paused by spec.suspend".to_owned(),
            Pause::Site => format!("paused by spec.suspend of HyperVSite {site}"),
            Pause::Maintenance => {
                format!("held for the maintenance of its host, as HyperVSite {site} says")
            }
        };
        format!(
            "replication is {who}: no recovery point is added; what the guest writes meanwhile is counted and follows \
             afterwards, and where it is more than half of a disk, that disk is compared with its replica"
        )
    }

    /// The reason of `Ready`.
    pub const fn reason(self) -> &'static str {
        match self {
            Pause::Vm | Pause::Site => "Suspended",
            Pause::Maintenance => "HostMaintenance",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn site(suspend: bool, maintenance: bool) -> HyperVSiteSpec {
        serde_json::from_value(json!({
            "hosts": [{ "name": "hv1", "maintenance": maintenance }, { "name": "hv2" }],
            "suspend": suspend,
            "azure": {
                "location": "westeurope",
                "credentials": { "type": "WorkloadIdentity" },
                "storage": { "account": "abc" },
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_vm_is_paused_by_itself_by_its_site_or_by_work_on_its_host() {
        let of = |suspended, site: HyperVSiteSpec| pause(suspended, Some(&site), Some("hv1"));
        assert_eq!(of(false, site(false, false)), None);
        assert_eq!(of(true, site(true, false)), Some(Pause::Vm));
        assert_eq!(of(false, site(true, false)), Some(Pause::Site));
        assert_eq!(of(true, site(false, true)), Some(Pause::Maintenance));
        let elsewhere = pause(false, Some(&site(false, true)), Some("hv2"));
        assert_eq!(elsewhere, None);
        assert_eq!(pause(true, None, None), Some(Pause::Vm));
    }
}
