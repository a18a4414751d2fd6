//! What of a site's spec was accepted by the API server and means nothing: said by field, with what follows. No I/O.

use crate::api::hyperv_site::{HyperVSiteSpec, Window};
use crate::controller::hours::Hours;
use crate::ids::HostName;

/// What is wrong, each with its field and what follows from it.
pub fn faults(spec: &HyperVSiteSpec) -> Vec<String> {
    let mut faults = Vec::new();
    let hosts = spec.hosts.iter().enumerate();
    faults.extend(hosts.filter_map(|(index, host)| {
        let error = host.name.parse::<HostName>().err()?;
        Some(format!(
            "spec.hosts[{index}].name: {error}; no agent is heard under it"
        ))
    }));
    let window = &spec.resynchronization.window;
    faults.extend(hours("spec.resynchronization.window", window).map(|wrong| {
        format!("{wrong}; until it is corrected VMs are compared only when asked for")
    }));
    let schedule = spec.bandwidth.iter().flat_map(|of| &of.schedule);
    faults.extend(schedule.enumerate().filter_map(|(index, entry)| {
        let wrong = hours(
            &format!("spec.bandwidth.schedule[{index}].hours"),
            &entry.hours,
        )?;
        let limit = &entry.per_host;
        Some(format!(
            "{wrong}; until it is corrected its limit of {limit} always holds"
        ))
    }));
    faults
}

fn hours(field: &str, window: &Window) -> Option<String> {
    let error = Hours::parse(window).err()?;
    Some(format!("{field}.{}: {error}", error.field()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = json!({
            "hosts": [{ "name": "hv1" }],
            "azure": {
                "location": "westeurope", "storage": { "account": "contoso" },
                "credentials": { "type": "ManagedIdentity" },
            },
        });
        change(&mut spec);
        faults(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn each_field_that_means_nothing_is_named_with_what_follows() {
        assert_eq!(of(|_| {}), [""; 0]);
        let said = of(|spec| {
            let berlin = json!({ "start": "08:00", "end": "18:00", "timeZone": "Europe/Berlin" });
            let berln = json!({ "start": "08:00", "end": "18:00", "timeZone": "Europe/Berln" });
            let limit = |hours| json!({ "hours": hours, "perHost": "20Mbit" });
            spec["resynchronization"]["window"] = json!({ "timeZone": "Berlin" });
            spec["bandwidth"] = json!({ "schedule": [limit(berlin), limit(berln)] });
        });
        let expected = [
            "spec.resynchronization.window.timeZone: \"Berlin\" is no time zone of the IANA database, such as \
             Europe/Berlin; until it is corrected VMs are compared only when asked for",
            "spec.bandwidth.schedule[1].hours.timeZone: \"Europe/Berln\" is no time zone of the IANA database, such as \
             Europe/Berlin; until it is corrected its limit of 20Mbit always holds",
        ];
        assert_eq!(said, expected);
    }
}
