//! From samples to what is printed: the median of each figure, its spread, and how it compares with what we want.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::image::Content;
use crate::machine::Machine;
use crate::measure::{Sample, Side, Usage};

/// All samples of a run of this program.
pub(crate) struct Report {
    machine: Machine,
    samples: BTreeMap<(Content, Side), Vec<Sample>>,
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    machine: Machine,
    contents: BTreeMap<Content, Vec<Row>>,
    samples: BTreeMap<Content, Vec<Sample>>,
}

/// One figure of both sides.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    unit: &'static str,
    theirs: Option<Figure>,
    ours: Option<Figure>,
    /// Ours by theirs.
    ratio: Option<f64>,
    /// The most that the ratio should be.
    target: Option<f64>,
}

/// A median and its spread.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

const MIB: f64 = 1_048_576.0;

impl Report {
    pub(crate) const fn new(machine: Machine) -> Self {
        Report {
            machine,
            samples: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, content: Content, sample: Sample) {
        self.samples
            .entry((content, sample.side))
            .or_default()
            .push(sample);
    }

    pub(crate) fn summarized(&self) -> Summary {
        let contents = Content::ALL.into_iter().filter(|content| {
            let mut sides = Side::ALL.into_iter();
            sides.any(|side| self.samples.contains_key(&(*content, side)))
        });
        let all = |content| {
            let sides = Side::ALL.into_iter();
            sides
                .flat_map(|side| self.of(content, side).to_vec())
                .collect()
        };
        let contents: Vec<Content> = contents.collect();
        Summary {
            machine: self.machine.clone(),
            samples: contents.iter().map(|c| (*c, all(*c))).collect(),
            contents: contents.iter().map(|c| (*c, self.rows(*c))).collect(),
        }
    }

    fn of(&self, content: Content, side: Side) -> &[Sample] {
        self.samples
            .get(&(content, side))
            .map_or(&[], Vec::as_slice)
    }

    fn rows(&self, content: Content) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |name: &str, unit, target, value: &dyn Fn(&Sample) -> Option<f64>| {
            let figure = |side| Figure::of(self.of(content, side).iter().filter_map(value));
            let (theirs, ours) = (figure(Side::Theirs), figure(Side::Ours));
            let both = theirs.zip(ours);
            rows.push(Row {
                name: name.to_owned(),
                unit,
                theirs,
                ours,
                ratio: both.map(|(theirs, ours)| ours.median / theirs.median),
                target,
            });
        };
        row("host done", "s", Some(0.25), &|s| Some(s.host_done_seconds));
        row("published", "s", Some(0.5), &|s| Some(s.published_seconds));
        row("CPU", "s", Some(0.25), &|s| Some(s.cpu_seconds()));
        row("peak memory", "MiB", Some(1.0 / 6.0), &|s| {
            Some(mib(s.peak_bytes()))
        });
        row("sent by the host", "MiB", None, &|s| {
            Some(mib(s.sent_bytes))
        });
        for name in ["qemu-img", "azcopy", "host", "cloud"] {
            let of = |s: &Sample| s.processes.get(name).copied();
            row(&format!("  CPU of {name}"), "s", None, &|s| {
                of(s).map(|usage| usage.cpu_seconds)
            });
            row(&format!("  peak of {name}"), "MiB", None, &|s| {
                of(s).map(|usage| mib(usage.peak_bytes))
            });
        }
        for name in ["azurite", "hypervisor"] {
            let of = |s: &Sample| s.stand_ins.get(name).map(|usage: &Usage| usage.cpu_seconds);
            row(&format!("beside: CPU of {name}"), "s", None, &of);
        }
        row("beside: CPU of others", "s", None, &|s| {
            Some(s.others_cpu_seconds)
        });
        rows
    }
}

/// Bytes as mebibytes: exact up to a byte for all that a machine has.
fn mib(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    f64::from(kib) * 1024.0 / MIB
}

impl Figure {
    /// Nothing of nothing.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(*values.get(middle.checked_sub(1)?)?, *values.get(middle)?),
            _ => *values.get(middle)?,
        };
        Some(Figure {
            median,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.1}–{:.1})", self.median, self.least, self.most)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let memory = machine.memory_bytes >> 30;
        writeln!(
            f,
            "{} × {}, {memory} GiB, Linux {}",
            machine.processors, machine.processor, machine.kernel
        )?;
        writeln!(f, "{}", machine.tools.join(", "))?;
        for (content, rows) in &self.contents {
            let of = |side| self.samples[content].iter().filter(move |s| s.side == side);
            let runs = Side::ALL.map(|side| of(side).count());
            let runs = runs.into_iter().max().unwrap_or(0);
            writeln!(f, "\n{content} data, median (least–most) of {runs} runs\n")?;
            writeln!(
                f,
                "| {:<30} | {:>24} | {:>24} | {:>6} | {:>6} |",
                "",
                Side::Theirs.to_string(),
                Side::Ours.to_string(),
                "ratio",
                "target"
            )?;
            writeln!(
                f,
                "|{:-<32}|{:->26}|{:->26}|{:->8}|{:->8}|",
                "", ":", ":", ":", ":"
            )?;
            for row in rows {
                writeln!(f, "{row}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |figure: &Option<Figure>| figure.map_or(String::new(), |f| f.to_string());
        let part = |part: Option<f64>| part.map_or(String::new(), |part| format!("{part:.2}"));
        write!(
            f,
            "| {:<30} | {:>24} | {:>24} | {:>6} | {:>6} |",
            format!("{}, {}", self.name, self.unit),
            figure(&self.theirs),
            figure(&self.ours),
            part(self.ratio),
            part(self.target)
        )
    }
}
