//! The machine that the figures are of, in the words that one needs to compare them with others.

use std::process::Command;

use serde::Serialize;

use crate::stand::Stand;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// As each tool says it.
    pub(crate) tools: Vec<String>,
}

pub(crate) fn describe(stand: &Stand) -> anyhow::Result<Machine> {
    let field = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map(|(_, value)| value.trim().to_owned())
    };
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    Ok(Machine {
        processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
        processors: std::thread::available_parallelism()?.get(),
        memory_bytes: memory << 10,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        tools: vec![
            format!("Azurite {}", stand.azurite.version.number()),
            first_line(Command::new("qemu-img").arg("--version"))?,
            first_line(Command::new(&stand.azcopy).arg("--version"))?,
        ],
    })
}

fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
