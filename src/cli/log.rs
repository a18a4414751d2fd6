//! `site-recovery log inspect`.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use crate::cli::output;
use crate::hrl::{Content, LogReader, recover};
use crate::replica::seal::LOG_MAX;
use crate::units::{ByteRange, Bytes, to_usize};

/// What a zstd frame begins with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what a replication log says of itself; a compressed one is decompressed first
    Inspect {
        /// The log: a .hrl as the agent keeps it, or as it is in an inbox
        log: PathBuf,
        /// List every record
        #[arg(long)]
        records: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected {
    id: uuid::Uuid,
    previous: Option<uuid::Uuid>,
    creator: String,
    disk_size: u64,
    closed: bool,
    /// Bytes after the last whole block of a log that was never closed.
    dropped: u64,
    records: u64,
    data_bytes: u64,
    zero_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Listed>>,
}

#[derive(Serialize)]
struct Listed {
    range: ByteRange,
    zeroes: bool,
}

pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Inspect { log, records, json } = command;
    let inspected =
        inspect(&log, records).with_context(|| format!("cannot read {}", log.display()))?;
    if json {
        output::json(&inspected)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("log        {}", inspected.id))?;
    if let Some(previous) = inspected.previous {
        output::line(&format!("follows    {previous}"))?;
    }
    output::line(&format!("creator    {}", inspected.creator))?;
    output::line(&format!("disk       {}", Bytes(inspected.disk_size)))?;
    if !inspected.closed {
        output::line(&format!(
            "torn       it was never closed; {} at its end belong to no whole block",
            Bytes(inspected.dropped)
        ))?;
    }
    output::line(&format!("records    {}", inspected.records))?;
    output::line(&format!("data       {}", Bytes(inspected.data_bytes)))?;
    output::line(&format!("zeroes     {}", Bytes(inspected.zero_bytes)))?;
    for record in inspected.list.iter().flatten() {
        let kind = if record.zeroes { "zero" } else { "data" };
        output::line(&format!("{kind:<10} {}", record.range))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(path: &Path, list: bool) -> anyhow::Result<Inspected> {
    let mut file = File::open(path)?;
    let mut start = [0; 4];
    let compressed = file.read_exact(&mut start).is_ok() && start == ZSTD;
    file.seek(SeekFrom::Start(0))?;
    if compressed {
        let mut stored = Vec::new();
        file.take(LOG_MAX + 1).read_to_end(&mut stored)?;
        let bytes = zstd::bulk::decompress(&stored, to_usize(LOG_MAX))
            .context("it cannot be decompressed")?;
        return read(std::io::Cursor::new(bytes), list);
    }
    read(BufReader::new(file), list)
}

fn read(mut source: impl std::io::Read + Seek, list: bool) -> anyhow::Result<Inspected> {
    match LogReader::open(&mut source) {
        Ok(log) => summarize(log, 0, true, list),
        Err(crate::hrl::Error::Open) => {
            // The recovery works on a copy: looking must not change anything.
            let mut copy = tempfile::tempfile()?;
            source.seek(SeekFrom::Start(0))?;
            std::io::copy(&mut source, &mut copy)?;
            let recovered = recover(&mut copy)?;
            copy.set_len(recovered.length)?;
            summarize(LogReader::open(copy)?, recovered.dropped, false, list)
        }
        Err(error) => Err(error.into()),
    }
}

fn summarize(
    mut log: LogReader<impl std::io::Read + Seek>,
    dropped: u64,
    closed: bool,
    list: bool,
) -> anyhow::Result<Inspected> {
    let header = log.header().clone();
    let mut inspected = Inspected {
        id: header.id,
        previous: Some(header.previous).filter(|previous| !previous.is_nil()),
        creator: String::from_utf8_lossy(&header.creator)
            .trim_end_matches('\0')
            .to_owned(),
        disk_size: header.disk_size,
        closed,
        dropped,
        records: 0,
        data_bytes: 0,
        zero_bytes: 0,
        list: list.then(Vec::new),
    };
    for record in log.records() {
        let record = record?;
        let zeroes = record.content == Content::Zeroes;
        inspected.records += 1;
        match zeroes {
            true => inspected.zero_bytes += record.range.len(),
            false => inspected.data_bytes += record.range.len(),
        }
        if let Some(list) = &mut inspected.list {
            list.push(Listed {
                range: record.range,
                zeroes,
            });
        }
    }
    Ok(inspected)
}
