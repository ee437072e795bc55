//! Where time went: components whose times add up to a total.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::spans::{Recording, Span};
use crate::table::Table;

/// The row for what no component accounts for.
pub const UNACCOUNTED: &str = "unaccounted";
/// The last row.
pub const TOTAL: &str = "total";

/// Before subtotals and samples: spaces that a page keeps too.
const INDENT: &str = "\u{a0}\u{a0}";

/// A table of components.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breakdown {
    /// What was measured, and of what the numbers are means.
    pub title: String,
    /// Those that add up, with what no component accounts for among them; subtotals and samples;
    /// last the total.
    pub rows: Vec<Component>,
}

/// One component.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Component {
    /// Its name.
    #[serde(rename = "component")]
    pub name: String,
    /// How often it ran.
    pub calls: f64,
    /// Milliseconds; none where it has no time of its own.
    pub ms: Option<f64>,
    /// Percent of the table's total.
    pub share: Option<f64>,
    /// Floating-point operations in 10^9, where spans count them.
    pub gflop: Option<f64>,
    /// The same per second.
    pub gflop_per_s: Option<f64>,
    /// Bytes read and written in 10^9 per second, where spans count them.
    pub gb_per_s: Option<f64>,
    /// Whether it is one of those that add up to the total; subtotals, samples and the total are
    /// not.
    pub adds_up: bool,
    /// What a reader has to know.
    pub note: String,
}

/// What spans come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) calls: u64,
    pub(super) time: Duration,
    pub(super) flop: u64,
    pub(super) bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.time += other.time;
        self.flop += other.flop;
        self.bytes += other.bytes;
    }
}

/// The spans of some recordings inside chosen ones, summed by component.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    sums: BTreeMap<String, Sum>,
    /// Components in the order in which they first began.
    order: Vec<String>,
    rest: Sum,
    /// Of the chosen spans.
    total: Sum,
}

/// Which component the time belongs to that a span has for itself, given the one that the span
/// around it belongs to: `None` leaves it there.
pub(super) type Classify<'a> = dyn Fn(&Recording, usize, Option<&str>) -> Option<String> + 'a;

impl Tally {
    /// Of the spans that `is_root` chooses and everything inside them. What `classify` gives to no
    /// component is the rest.
    pub(super) fn of(
        recordings: &[&Recording],
        is_root: impl Fn(&Span) -> bool,
        classify: &Classify<'_>,
    ) -> Self {
        let mut tally = Self::default();
        for recording in recordings {
            tally.add(recording, &is_root, classify);
        }
        tally
    }

    fn add(
        &mut self,
        recording: &Recording,
        is_root: &impl Fn(&Span) -> bool,
        classify: &Classify<'_>,
    ) {
        let own = recording.self_times();
        // Of each span inside a root, the component.
        let mut places: Vec<Option<Option<String>>> = Vec::with_capacity(own.len());
        for (index, span) in recording.spans().iter().enumerate() {
            let around = span.parent.and_then(|parent| places[parent].as_ref());
            if around.is_none() && !is_root(span) {
                places.push(None);
                continue;
            }
            if around.is_none() {
                self.total.add(Sum {
                    calls: 1,
                    time: span.duration,
                    ..Sum::default()
                });
            }
            let around = around.and_then(Option::as_deref);
            let component = classify(recording, index, around);
            let begins = component.is_some() && component.as_deref() != around;
            let component = component.or_else(|| around.map(str::to_string));
            let sum = Sum {
                calls: begins.into(),
                time: own[index],
                flop: span.number("flop").unwrap_or_default(),
                bytes: span.number("bytes").unwrap_or_default(),
            };
            self.total.flop += sum.flop;
            self.total.bytes += sum.bytes;
            match &component {
                Some(component) => self.put(component, sum),
                None => self.rest.add(sum),
            }
            places.push(Some(component));
        }
    }

    fn put(&mut self, component: &str, sum: Sum) {
        if !self.sums.contains_key(component) {
            self.order.push(component.to_string());
        }
        self.sums.entry(component.to_string()).or_default().add(sum);
    }

    /// Adds a component from beside the chosen spans, to the total too.
    pub(super) fn put_beside(&mut self, component: &str, sum: Sum) {
        self.put(component, sum);
        self.total.add(Sum { calls: 0, ..sum });
    }

    /// Components in the order in which they first began.
    pub(super) fn components(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// What a component comes to, if it ran.
    pub(super) fn get(&self, component: &str) -> Option<Sum> {
        self.sums.get(component).copied()
    }

    /// What the chosen spans come to.
    pub(super) fn total(&self) -> Sum {
        self.total
    }

    pub(super) fn rest(&self) -> Sum {
        self.rest
    }
}

impl Breakdown {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a component that adds up, as a mean over `count`.
    pub(super) fn part(&mut self, component: &str, sum: Sum, count: f64) -> &mut Component {
        self.push(Component {
            adds_up: true,
            ..Component::new(component, sum, count)
        })
    }

    /// Adds a subtotal, a sample or the total.
    pub(super) fn aside(&mut self, component: &str, sum: Sum, count: f64) -> &mut Component {
        self.push(Component::new(component, sum, count))
    }

    /// Adds what has no time of its own, and why.
    pub(super) fn without_time(&mut self, component: &str, note: String) {
        self.push(Component {
            name: component.to_string(),
            adds_up: true,
            note,
            ..Component::default()
        });
    }

    fn push(&mut self, row: Component) -> &mut Component {
        self.rows.push(row);
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    /// Adds every component of a tally that is not there yet, the rest and the total, as means over
    /// `count`, and the shares of all of them.
    pub(super) fn finish(mut self, tally: &Tally, count: f64) -> Self {
        for component in tally.components() {
            if let (false, Some(sum)) = (
                self.rows.iter().any(|row| row.name == component),
                tally.get(component),
            ) {
                self.part(component, sum, count);
            }
        }
        self.part(
            UNACCOUNTED,
            Sum {
                calls: 0,
                ..tally.rest()
            },
            count,
        );
        self.aside(TOTAL, tally.total(), count);
        let total = tally.total().time.as_secs_f64() * 1e3 / count;
        for row in &mut self.rows {
            row.share = row.ms.filter(|_| total > 0.0).map(|ms| 100.0 * ms / total);
        }
        self
    }

    /// The row of a component.
    pub fn row(&self, component: &str) -> Option<&Component> {
        self.rows.iter().find(|row| row.name == component)
    }

    /// As text.
    pub fn table(&self) -> Table {
        let columns = [
            "component",
            "calls",
            "ms",
            "%",
            "GFLOP",
            "GFLOP/s",
            "GB/s",
            "note",
        ];
        let mut table = Table::new(self.title.clone(), &columns).words(&[7]);
        for row in &self.rows {
            let calls = if row.calls > 0.0 {
                plain(row.calls)
            } else {
                String::new()
            };
            let counted = |value: Option<f64>| value.map(significant).unwrap_or_default();
            table.row([
                if row.is_aside() {
                    format!("{INDENT}{}", row.name)
                } else {
                    row.name.clone()
                },
                calls,
                row.ms.map(|ms| format!("{ms:.3}")).unwrap_or_default(),
                row.share
                    .map(|share| format!("{share:.1}"))
                    .unwrap_or_default(),
                counted(row.gflop),
                counted(row.gflop_per_s),
                counted(row.gb_per_s),
                row.note.clone(),
            ]);
        }
        table
    }
}

impl Component {
    /// Whether it is a subtotal or a sample.
    fn is_aside(&self) -> bool {
        !self.adds_up && self.name != TOTAL
    }

    fn new(component: &str, sum: Sum, count: f64) -> Self {
        let seconds = sum.time.as_secs_f64();
        let counted = |number: u64| (number > 0).then_some(number as f64 / 1e9);
        let per_second = |number: u64| {
            counted(number)
                .filter(|_| seconds > 0.0)
                .map(|number| number / seconds)
        };
        Self {
            name: component.to_string(),
            calls: sum.calls as f64 / count,
            ms: Some(seconds * 1e3 / count),
            gflop: counted(sum.flop).map(|number| number / count),
            gflop_per_s: per_second(sum.flop),
            gb_per_s: per_second(sum.bytes),
            ..Self::default()
        }
    }
}

/// A number of calls: whole, but for means over runs that differ.
fn plain(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Three significant digits, and all that stand before the point.
fn significant(value: f64) -> String {
    let digits = (2.0 - value.abs().max(1e-3).log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use tracing::{debug_span, trace_span};

    use super::*;
    use crate::spans::record;

    fn recording() -> Recording {
        let work = || {
            let _outside = debug_span!("outside").entered();
            for _ in 0..2 {
                let _block = debug_span!("block").entered();
                let _group = debug_span!("mlp").entered();
                let _linear = trace_span!(
                    "linear",
                    role = "fc1",
                    flop = 3_000_000_000u64,
                    bytes = 5u64
                )
                .entered();
                std::hint::black_box((0..1000).sum::<u64>());
                drop(trace_span!("gelu").entered());
                drop(trace_span!("copy").entered());
            }
        };
        record(None, work).unwrap().1
    }

    fn classify(recording: &Recording, index: usize, _: Option<&str>) -> Option<String> {
        match recording.spans()[index].name {
            name @ ("linear" | "gelu") => Some(name.to_string()),
            _ => None,
        }
    }

    #[test]
    fn components_and_the_rest_add_up_to_the_total() {
        let recording = recording();
        let tally = Tally::of(
            &[&recording, &recording],
            |span| span.name == "block",
            &classify,
        );
        assert_eq!(tally.components().collect::<Vec<_>>(), ["linear", "gelu"]);
        let parts =
            tally.get("linear").unwrap().time + tally.get("gelu").unwrap().time + tally.rest().time;
        assert_eq!(parts, tally.total().time);
        assert_eq!(tally.total().time, 2 * recording.total("block"));
        // What is inside a component and none itself is that component's.
        assert_eq!(
            (
                tally.get("linear").unwrap().calls,
                tally.get("gelu").unwrap().calls
            ),
            (4, 4)
        );
        assert_eq!(
            (tally.total().flop, tally.get("linear").unwrap().bytes),
            (12_000_000_000, 20)
        );

        let breakdown = Breakdown::new("blocks").finish(&tally, 4.0);
        let sum: f64 = breakdown
            .rows
            .iter()
            .filter(|row| row.adds_up)
            .filter_map(|row| row.ms)
            .sum();
        let total = breakdown.row(TOTAL).unwrap();
        assert!((sum - total.ms.unwrap()).abs() < 1e-9, "{breakdown:?}");
        assert_eq!((total.calls, total.gflop), (1.0, Some(3.0)));
        assert!((total.share.unwrap() - 100.0).abs() < 1e-9, "{breakdown:?}");
        let shares: f64 = breakdown
            .rows
            .iter()
            .filter(|row| row.adds_up)
            .filter_map(|row| row.share)
            .sum();
        assert!((shares - 100.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        for (value, text) in [
            (0.0, "0.00000"),
            (0.0123, "0.0123"),
            (1.234, "1.23"),
            (45.67, "45.7"),
            (1234.6, "1235"),
        ] {
            assert_eq!(significant(value), text);
        }
    }
}
