//! A recording as a file for a viewer: a trace over time, or a flame graph of what is inside what.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::spans::{Recording, Span, Value};

impl Recording {
    /// Writes the spans as Chrome trace events (JSON), for Perfetto or `chrome://tracing`; `title`
    /// names the process.
    ///
    /// # Errors
    /// Only the writer's own.
    pub fn write_trace(&self, title: &str, out: &mut dyn Write) -> io::Result<()> {
        let microseconds = |time: Duration| time.as_nanos() as f64 / 1e3;
        let name = json!({ "ph": "M", "name": "process_name", "pid": 1, "tid": 1, "args": { "name": title } });
        let events = self.spans().iter().map(|span| {
            let arguments: Map<String, Json> = span
                .fields
                .iter()
                .map(|(name, value)| match value {
                    Value::Number(number) => (name.to_string(), Json::from(*number)),
                    Value::Text(text) => (name.to_string(), Json::from(text.as_str())),
                })
                .collect();
            json!({
                "ph": "X",
                "name": span.label(),
                "cat": if span.level == tracing::Level::TRACE { "operation" } else { "group" },
                "ts": microseconds(span.start),
                "dur": microseconds(span.duration),
                "pid": 1,
                "tid": 1,
                "args": arguments,
            })
        });
        out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        serde_json::to_writer(&mut *out, &name)?;
        for event in events {
            out.write_all(b",\n")?;
            serde_json::to_writer(&mut *out, &event)?;
        }
        out.write_all(b"\n]}\n")
    }

    /// Draws a flame graph, an SVG: a span is as wide as the time it took, above the span that it
    /// is in. Spans of one name in one place are drawn together.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a recording in which no span took any time; the writer's
    /// own.
    pub fn write_flame(&self, title: &str, out: &mut dyn Write) -> io::Result<()> {
        let lines: Vec<String> = self
            .self_times()
            .into_iter()
            .enumerate()
            .filter(|(_, time)| time.as_micros() > 0)
            .map(|(index, time)| {
                let mut path: Vec<String> = self.around(index).map(Span::label).collect();
                path.reverse();
                path.push(self.spans()[index].label());
                format!("{} {}", path.join(";").replace('\n', " "), time.as_micros())
            })
            .collect();
        if lines.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no span took a microsecond",
            ));
        }
        let mut options = inferno::flamegraph::Options::default();
        options.title = title.to_string();
        options.count_name = "microseconds".into();
        options.direction = inferno::flamegraph::Direction::Straight;
        inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)
            .map_err(|error| io::Error::other(error.to_string()))
    }
}

impl Span {
    /// Its name with what tells it from others of the name.
    pub fn label(&self) -> String {
        let mut label = self.name.to_string();
        for (field, value) in &self.fields {
            match (*field, value) {
                ("role" | "stage" | "kind", Value::Text(text)) if !text.is_empty() => {
                    label += &format!(" {text}")
                }
                ("index" | "view", Value::Number(number)) => label += &format!(" {field} {number}"),
                _ => {}
            }
        }
        label
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug_span, trace_span};

    use super::*;
    use crate::spans::record;

    fn recording() -> Recording {
        let work = || {
            let _block = debug_span!("dec_block", index = 3u64, view = 2u64).entered();
            let _linear = trace_span!("linear", role = "fc1", flop = 7u64).entered();
            std::thread::sleep(Duration::from_millis(1));
        };
        record(None, work).unwrap().1
    }

    #[test]
    fn a_trace_holds_complete_events_with_their_fields() {
        let mut bytes = Vec::new();
        recording().write_trace("a \"title\"", &mut bytes).unwrap();
        let trace: Json = serde_json::from_slice(&bytes).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(
            (events.len(), &events[0]["args"]["name"]),
            (3, &"a \"title\"".into())
        );
        assert_eq!(events[1]["name"], "dec_block index 3 view 2");
        assert_eq!(
            (&events[2]["name"], &events[2]["ph"]),
            (&"linear fc1".into(), &"X".into())
        );
        assert_eq!(
            (&events[2]["args"]["flop"], &events[2]["args"]["role"]),
            (&7.into(), &"fc1".into())
        );
        assert!(events[2]["dur"].as_f64().unwrap() >= 1000.0);
        assert!(events[1]["dur"].as_f64().unwrap() >= events[2]["dur"].as_f64().unwrap());
    }

    #[test]
    fn a_flame_graph_shows_what_took_time_and_refuses_to_show_nothing() {
        let mut bytes = Vec::new();
        recording()
            .write_flame("where time goes", &mut bytes)
            .unwrap();
        let svg = String::from_utf8(bytes).unwrap();
        for part in [
            "<svg",
            "</svg>",
            "where time goes",
            "linear fc1",
            "dec_block index 3 view 2",
        ] {
            assert!(svg.contains(part), "lacks {part}");
        }
        let nothing = Recording::default()
            .write_flame("nothing", &mut Vec::new())
            .unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::InvalidInput);
    }
}
