//! The figures of each ProtectedVM, for Prometheus: computed when they are asked for, so that ages are of now.
//!
//! A VM has a fixed number of series and each of its disks three; they are gone with the VM. What is not known has no
//! series: nobody shall take it for zero.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

use crate::ids::ObjectName;
use crate::units::Clock;

/// What is known of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub state: String,
    pub health: String,
    /// Up to when everything is in Azure, and in a recovery point.
    pub uploaded: Option<Timestamp>,
    pub processed: Option<Timestamp>,
    /// Bytes per second.
    pub churn: Option<u64>,
    /// Cycles of the monitoring interval.
    pub completed: u64,
    pub missed: u64,
    pub disks: Vec<DiskFigures>,
}

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFigures {
    pub slot: String,
    /// Bytes that are captured and not sealed.
    pub pending: u64,
    /// How much of its copy is done, and how much there is.
    pub copy: Option<(u64, u64)>,
    /// Until half of it has changed, if nothing is shipped.
    pub left: Option<Duration>,
}

/// The figures of all VMs.
pub struct Vms {
    clock: Arc<dyn Clock>,
    figures: Mutex<HashMap<ObjectName, Arc<Figures>>>,
}

impl Vms {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Vms {
            clock,
            figures: Mutex::default(),
        }
    }

    pub fn set(&self, vm: &ObjectName, figures: Figures) {
        self.lock().insert(vm.clone(), Arc::new(figures));
    }

    /// Forgets a VM that is gone.
    pub fn forget(&self, vm: &ObjectName) {
        self.lock().remove(vm);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectName, Arc<Figures>>> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vms({})", self.lock().len())
    }
}

type All = [(ObjectName, Arc<Figures>)];

impl Collector for Vms {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.clock.now();
        // Whoever looks at a VM waits for no scraper: what is written out is what was there at once.
        let figures = self.lock();
        let pairs = figures.iter().map(|(name, of)| (name.clone(), of.clone()));
        let mut all: Vec<_> = pairs.collect();
        drop(figures);
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        encode_exposure(&mut encoder, &all, now)?;
        encode_words(&mut encoder, &all)?;
        encode_disks(&mut encoder, &all)
    }
}

fn begin<'s>(
    encoder: &'s mut DescriptorEncoder<'_>,
    name: &'s str,
    help: &'s str,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn encode_exposure(encoder: &mut DescriptorEncoder<'_>, all: &All, now: Timestamp) -> fmt::Result {
    let help = "Seconds that would be lost now: by upload, up to the storage account; by processing, up to a recovery point";
    let mut metric = begin(encoder, "vm_rpo_seconds", help)?;
    for (vm, figures) in all {
        for (by, at) in [
            ("upload", figures.uploaded),
            ("processing", figures.processed),
        ] {
            let Some(at) = at else { continue };
            let labels = with(vm, "by", by);
            let age = now.duration_since(at).as_secs_f64().max(0.0);
            metric.encode_family(&labels)?.encode_gauge(&age)?;
        }
    }
    let mut metric = begin(
        encoder,
        "vm_churn_bytes_per_second",
        "Bytes per second that change, over the last hour",
    )?;
    for (vm, figures) in all {
        let Some(churn) = figures.churn else { continue };
        metric.encode_family(&labels(vm))?.encode_gauge(&churn)?;
    }
    let help =
        "Cycles of the last 12 hours: completed, and missed because an earlier one was on its way";
    let mut metric = begin(encoder, "vm_cycles", help)?;
    for (vm, figures) in all {
        for (by, count) in [("completed", figures.completed), ("missed", figures.missed)] {
            let labels = with(vm, "by", by);
            metric.encode_family(&labels)?.encode_gauge(&count)?;
        }
    }
    Ok(())
}

fn encode_words(encoder: &mut DescriptorEncoder<'_>, all: &All) -> fmt::Result {
    type Word = fn(&Figures) -> &str;
    let words: [(&str, &str, Word); 2] = [
        ("vm_health", "1 for the health that the VM has", |figures| {
            &figures.health
        }),
        ("vm_state", "1 for the state that the VM is in", |figures| {
            &figures.state
        }),
    ];
    for (name, help, word) in words {
        let mut metric = begin(encoder, name, help)?;
        for (vm, figures) in all {
            let labels = with(vm, "by", word(figures));
            metric.encode_family(&labels)?.encode_gauge(&1u64)?;
        }
    }
    Ok(())
}

fn encode_disks(encoder: &mut DescriptorEncoder<'_>, all: &All) -> fmt::Result {
    let each = || {
        let disks = all
            .iter()
            .flat_map(|(vm, figures)| figures.disks.iter().map(move |disk| (vm, disk)));
        disks.map(|(vm, disk)| {
            let labels = with(vm, "disk", &disk.slot);
            (labels, disk)
        })
    };
    let mut metric = begin(
        encoder,
        "vm_disk_pending_bytes",
        "Bytes of changes that are captured and not in Azure yet",
    )?;
    for (labels, disk) in each() {
        metric.encode_family(&labels)?.encode_gauge(&disk.pending)?;
    }
    let mut metric = begin(
        encoder,
        "vm_disk_copy_ratio",
        "How much of the last copy or comparison is done, from 0 to 1",
    )?;
    for (labels, disk) in each() {
        let Some((done, total)) = disk.copy else {
            continue;
        };
        metric
            .encode_family(&labels)?
            .encode_gauge(&ratio(done, total))?;
    }
    let help = "Seconds until half of the disk has changed and it is resynchronized, if nothing is shipped from now on";
    let mut metric = begin(encoder, "vm_disk_half_changed_in_seconds", help)?;
    for (labels, disk) in each() {
        let Some(left) = disk.left else { continue };
        metric
            .encode_family(&labels)?
            .encode_gauge(&left.as_secs())?;
    }
    Ok(())
}

fn labels(vm: &ObjectName) -> [(&'static str, &str); 2] {
    [("namespace", vm.namespace()), ("name", vm.name())]
}

fn with<'a>(
    vm: &'a ObjectName,
    label: &'static str,
    value: &'a str,
) -> [(&'static str, &'a str); 3] {
    [
        ("namespace", vm.namespace()),
        ("name", vm.name()),
        (label, value),
    ]
}

/// `done` of `total`, to a thousandth.
fn ratio(done: u64, total: u64) -> f64 {
    let thousandths = u128::from(done) * 1000 / u128::from(total.max(1));
    f64::from(u16::try_from(thousandths).unwrap_or(1000)) / 1000.0
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    struct Fixed(Timestamp);

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn scraped(vms: &Arc<Vms>) -> String {
        let mut registry = Registry::with_prefix("site_recovery");
        registry.register_collector(Box::new(vms.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_vm_is_told_as_it_is_when_it_is_asked_for_and_gone_when_it_is_gone() {
        let vms = Arc::new(Vms::new(Arc::new(Fixed(at(90)))));
        let web = ObjectName::new("dr", "web").unwrap();
        vms.set(
            &web,
            Figures {
                state: "Protected".to_owned(),
                health: "Warning".to_owned(),
                uploaded: Some(at(60)),
                churn: Some(4096),
                missed: 3,
                disks: vec![DiskFigures {
                    slot: "scsi:0:0".to_owned(),
                    pending: 8,
                    copy: Some((1, 4)),
                    left: Some(Duration::from_secs(7)),
                }],
                ..Figures::default()
            },
        );
        let text = scraped(&vms);
        for line in [
            r#"site_recovery_vm_rpo_seconds{namespace="dr",name="web",by="upload"} 30.0"#,
            r#"site_recovery_vm_churn_bytes_per_second{namespace="dr",name="web"} 4096"#,
            r#"site_recovery_vm_cycles{namespace="dr",name="web",by="missed"} 3"#,
            r#"site_recovery_vm_health{namespace="dr",name="web",by="Warning"} 1"#,
            r#"site_recovery_vm_disk_pending_bytes{namespace="dr",name="web",disk="scsi:0:0"} 8"#,
            r#"site_recovery_vm_disk_copy_ratio{namespace="dr",name="web",disk="scsi:0:0"} 0.25"#,
            r#"site_recovery_vm_disk_half_changed_in_seconds{namespace="dr",name="web",disk="scsi:0:0"} 7"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(
            !text.contains(r#"by="processing""#),
            "what is not known is not told\n{text}"
        );
        vms.forget(&web);
        assert!(!scraped(&vms).contains("web"));
    }

    /// Where metrics are written; fails if whoever looks at a VM would have to wait meanwhile.
    struct Scraper(Arc<Vms>);

    impl fmt::Write for Scraper {
        fn write_str(&mut self, _: &str) -> fmt::Result {
            self.0.figures.try_lock().map(drop).map_err(|_| fmt::Error)
        }
    }

    #[test]
    fn nobody_waits_for_a_scraper_that_reads_slowly() {
        let vms = Arc::new(Vms::new(Arc::new(Fixed(at(90)))));
        let web = ObjectName::new("dr", "web").unwrap();
        vms.set(&web, Figures::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(vms.clone()));
        assert!(encode(&mut Scraper(vms), &registry).is_ok());
    }
}
