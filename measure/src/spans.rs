//! The program's own spans, recorded: what ran inside what, and for how long.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use mast3r::error::Result;
use mast3r::runtime::Runtime;

/// A span that was entered and left.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its name, for example `linear`.
    pub name: &'static str,
    /// Its level: groups are `DEBUG`, what they consist of is `TRACE`.
    pub level: Level,
    /// Index of the span in which it began.
    pub parent: Option<usize>,
    /// When it was entered, from the beginning of the recording.
    pub start: Duration,
    /// From there until it was left.
    pub duration: Duration,
    /// Its fields, in the order of their declaration.
    pub fields: Vec<(&'static str, Value)>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count: of a block, of operations, of bytes.
    Number(u64),
    /// Anything else.
    Text(String),
}

/// Spans in the order of their beginning, so that a parent comes before its children.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    spans: Vec<Span>,
}

/// Runs `work` and records this thread's spans of it, those of this library alone.
///
/// With a `runtime` on a GPU, the device is waited for whenever a span begins or ends: a span's
/// time is then that of its own work, and all of it together takes longer than it would without.
/// Messages go where they went before.
///
/// # Errors
/// Those of the device.
pub fn record<T>(runtime: Option<&Runtime>, work: impl FnOnce() -> T) -> Result<(T, Recording)> {
    let recorder = Recorder {
        runtime: runtime
            .filter(|runtime| !runtime.device().is_cpu())
            .cloned(),
        messages: dispatcher::get_default(Dispatch::clone),
        started: Instant::now(),
        state: Mutex::default(),
    };
    let dispatch = Dispatch::new(recorder);
    let result = dispatcher::with_default(&dispatch, work);
    let state = match dispatch.downcast_ref::<Recorder>() {
        Some(recorder) => std::mem::take(&mut *recorder.state()),
        None => State::default(),
    };
    drop(dispatch);
    // Else spans would go on asking whether anyone listens.
    tracing::callsite::rebuild_interest_cache();
    match state.failure {
        Some(error) => Err(error),
        None => Ok((result, Recording { spans: state.spans })),
    }
}

/// Receives spans; one for each recording.
struct Recorder {
    /// The GPU to wait for.
    runtime: Option<Runtime>,
    messages: Dispatch,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A span's identifier is its index and one.
    spans: Vec<Span>,
    /// Those entered and not left.
    inside: Vec<usize>,
    failure: Option<mast3r::Error>,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, once the device has done what it was given.
    fn now(&self, state: &mut State) -> Duration {
        if let Some(Err(error)) = self.runtime.as_ref().map(Runtime::synchronize) {
            state.failure.get_or_insert(error);
        }
        self.started.elapsed()
    }
}

fn index(id: &Id) -> usize {
    id.into_u64() as usize - 1
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            metadata.target().starts_with("mast3r")
        } else {
            self.messages.enabled(metadata)
        }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::TRACE)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields(Vec::new());
        attributes.record(&mut fields);
        let mut state = self.state();
        let parent = match attributes.parent() {
            Some(parent) => Some(index(parent)),
            None if attributes.is_root() => None,
            None => state.inside.last().copied(),
        };
        let metadata = attributes.metadata();
        state.spans.push(Span {
            name: metadata.name(),
            level: *metadata.level(),
            parent,
            start: Duration::ZERO,
            duration: Duration::ZERO,
            fields: fields.0,
        });
        Id::from_u64(state.spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields(Vec::new());
        values.record(&mut fields);
        if let Some(span) = self.state().spans.get_mut(index(span)) {
            span.fields.extend(fields.0);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.messages.event(event);
    }

    fn enter(&self, id: &Id) {
        let mut state = self.state();
        let now = self.now(&mut state);
        let index = index(id);
        state.inside.push(index);
        if let Some(span) = state.spans.get_mut(index) {
            span.start = now;
        }
    }

    fn exit(&self, id: &Id) {
        let mut state = self.state();
        let now = self.now(&mut state);
        let index = index(id);
        if let Some(place) = state.inside.iter().rposition(|&inside| inside == index) {
            state.inside.remove(place);
        }
        if let Some(span) = state.spans.get_mut(index) {
            span.duration = now - span.start;
        }
    }
}

struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), Value::Number(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        let value =
            u64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Number);
        self.0.push((field.name(), value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::Text(value.to_string())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .push((field.name(), Value::Text(format!("{value:?}"))));
    }
}

impl Span {
    /// When it was left, from the beginning of the recording.
    pub fn end(&self) -> Duration {
        self.start + self.duration
    }

    /// A field that is a number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.fields.iter().find_map(|(name, value)| match value {
            Value::Number(number) if *name == field => Some(*number),
            _ => None,
        })
    }

    /// A field that is a text; empty if there is none.
    pub fn text(&self, field: &str) -> &str {
        let found = self.fields.iter().find_map(|(name, value)| match value {
            Value::Text(text) if *name == field => Some(text.as_str()),
            _ => None,
        });
        found.unwrap_or_default()
    }
}

impl Recording {
    /// Every span.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The time of each span that none of the spans inside it accounts for.
    pub fn self_times(&self) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.spans.iter().map(|span| span.duration).collect();
        for span in &self.spans {
            if let Some(parent) = span.parent {
                times[parent] = times[parent].saturating_sub(span.duration);
            }
        }
        times
    }

    /// The spans around a span, the innermost first.
    pub fn around(&self, index: usize) -> impl Iterator<Item = &Span> {
        let parent = |index: usize| self.spans[index].parent;
        std::iter::successors(parent(index), move |&index| parent(index))
            .map(|index| &self.spans[index])
    }

    /// The time of all spans called `name` together.
    pub fn total(&self, name: &str) -> Duration {
        self.spans
            .iter()
            .filter(|span| span.name == name)
            .map(|span| span.duration)
            .sum()
    }

    /// This recording and, from its end on, another.
    pub fn then(mut self, other: Self) -> Self {
        let (count, end) = (
            self.spans.len(),
            self.spans.iter().map(Span::end).max().unwrap_or_default(),
        );
        self.spans.extend(other.spans.into_iter().map(|mut span| {
            span.parent = span.parent.map(|parent| parent + count);
            span.start += end;
            span
        }));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use tracing::{debug_span, trace_span};

    use super::*;

    const STEP: Duration = Duration::from_millis(2);

    fn nested() -> Recording {
        let work = || {
            let _root = debug_span!("root").entered();
            sleep(STEP);
            for layer in 0..2u64 {
                let _block = debug_span!("block", index = layer, view = 1).entered();
                let role = String::from("fc1");
                let late = trace_span!(
                    "linear",
                    role = role,
                    flop = 8u64,
                    bytes = tracing::field::Empty
                )
                .entered();
                late.record("bytes", 16u64);
                sleep(STEP);
                drop(late);
                sleep(STEP);
            }
        };
        record(None, work).unwrap().1
    }

    #[test]
    fn spans_nest_as_they_were_entered_and_keep_their_fields() {
        let recording = nested();
        let names: Vec<_> = recording
            .spans()
            .iter()
            .map(|span| (span.name, span.parent))
            .collect();
        let expected = [
            ("root", None),
            ("block", Some(0)),
            ("linear", Some(1)),
            ("block", Some(0)),
            ("linear", Some(3)),
        ];
        assert_eq!(names, expected);
        let linear = &recording.spans()[4];
        assert_eq!(
            (
                linear.text("role"),
                linear.number("flop"),
                linear.number("bytes")
            ),
            ("fc1", Some(8), Some(16))
        );
        assert_eq!((linear.text("flop"), linear.number("role")), ("", None));
        assert_eq!(
            (linear.level, recording.spans()[3].level),
            (Level::TRACE, Level::DEBUG)
        );
        assert_eq!(
            (
                recording.spans()[3].number("index"),
                recording.spans()[3].number("view")
            ),
            (Some(1), Some(1))
        );
        let around: Vec<_> = recording.around(4).map(|span| span.name).collect();
        assert_eq!(around, ["block", "root"]);
        for span in recording.spans() {
            if let Some(parent) = span.parent.map(|parent| &recording.spans()[parent]) {
                assert!(
                    parent.start <= span.start && span.end() <= parent.end(),
                    "{span:?} in {parent:?}"
                );
            }
        }
    }

    #[test]
    fn the_times_that_spans_have_for_themselves_add_up_to_the_whole() {
        let recording = nested();
        let own = recording.self_times();
        assert_eq!(own.iter().sum::<Duration>(), recording.spans()[0].duration);
        assert!(own.iter().all(|time| *time >= STEP), "{own:?}");
        assert_eq!(
            recording.total("block"),
            recording.spans()[1].duration + recording.spans()[3].duration
        );
    }

    #[test]
    fn a_recording_is_of_this_thread_and_of_its_work_alone() {
        let ((), recording) = record(None, || {
            std::thread::spawn(|| drop(trace_span!("elsewhere").entered()))
                .join()
                .unwrap();
        })
        .unwrap();
        drop(trace_span!("after").entered());
        assert_eq!(recording, Recording::default());
    }

    #[test]
    fn a_recording_goes_on_where_another_ended() {
        let (first, second) = (nested(), nested());
        let (count, end) = (first.spans().len(), first.spans()[0].end());
        let both = first.then(second.clone());
        assert_eq!(both.spans().len(), 2 * count);
        assert_eq!(both.spans()[count].start, second.spans()[0].start + end);
        assert_eq!(
            (both.spans()[count].parent, both.spans()[count + 1].parent),
            (None, Some(count))
        );
        assert_eq!(both.self_times()[count..], second.self_times());
    }
}
