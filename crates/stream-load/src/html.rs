//! The report as a page with plots.

use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
/// Room for the labels.
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;

/// Makes the page of a report in JSON.
pub(crate) fn page(report: &Value) -> String {
    let passed = report["pass"] == true;
    let verdict = match passed {
        true => "pass".to_owned(),
        false => {
            let broken = report["broken_thresholds"].as_array().into_iter().flatten();
            let broken: Vec<&str> = broken.filter_map(Value::as_str).collect();
            format!("fail: {}", broken.join("; "))
        }
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>stream-load: {short}</title>\n<style>{STYLE}</style>\n\
         <h1>stream-load</h1>\n<p class=\"{class}\">{verdict}</p>\n\
         <p>{streams} streams in {elapsed:.1} s, {chunks} chunks, {records} records, {bytes} bytes</p>\n",
        short = if passed { "pass" } else { "fail" },
        class = if passed { "pass" } else { "fail" },
        verdict = escaped(&verdict),
        streams = report["streams"],
        elapsed = number(&report["elapsed"]),
        chunks = report["chunks"],
        records = report["records"],
        bytes = report["bytes"],
    );
    page += "<h2>How the streams ended</h2>\n";
    page += &endings(&report["endings"], number(&report["streams"]));
    page += "<h2>First chunk</h2>\n";
    let series = [
        ("latency", curve(&report["latency"]["first_chunk"])),
        (
            "service time",
            curve(&report["service_time"]["first_chunk"]),
        ),
    ];
    page += &plot(&series, &PERCENTILES, "share of the streams", "ms");
    page += "<h2>Gaps between chunks, over time</h2>\n";
    let timeline = &report["timeline"];
    let step = number(&timeline["step"]);
    let points = timeline["points"].as_array().map_or(&[][..], Vec::as_slice);
    let over_time = |field: &str| -> Vec<(f64, f64)> {
        let value = |point: &Value| number(&point[field]) * 1e3;
        points
            .iter()
            .enumerate()
            .map(|(n, point)| (n as f64 * step, value(point)))
            .collect()
    };
    let series = [
        ("longest", over_time("gap_max")),
        ("mean", over_time("gap_mean")),
    ];
    let end = (points.len() as f64 * step).max(step);
    let times: Vec<(f64, String)> = (0..=4)
        .map(|n| {
            (
                end * f64::from(n) / 4.0,
                format!("{:.1} s", end * f64::from(n) / 4.0),
            )
        })
        .collect();
    page += &plot(&series, &times, "time since the first stream", "ms");
    let reasons = report["reasons"].as_array().into_iter().flatten();
    let reasons: Vec<String> = reasons.map(reason).collect();
    if !reasons.is_empty() {
        let _ = writeln!(page, "<h2>Reasons</h2>\n<ul>{}</ul>", reasons.concat());
    }
    page
}

const STYLE: &str = "body{font:16px/1.4 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;\
color-scheme:light dark;background:Canvas;color:CanvasText}svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:\
CanvasText}.grid{stroke:GrayText;stroke-opacity:.35}.s0{stroke:#1f77b4;fill:#1f77b4}.s1{stroke:#d9730d;fill:#d9730d}.line{fill:none;\
stroke-width:2}.pass{color:#2a7d2a;font-weight:600}.fail{color:#c0392b;font-weight:600}table{border-collapse:collapse}td,th{text-align:left;\
padding:.15rem .8rem .15rem 0}meter{width:16rem}";

/// The position of each percentile on the axis. Rare percentiles are spread out.
const PERCENTILES: [(f64, &str); 6] = [
    (0.0, "10 %"),
    (1.0, "50 %"),
    (2.0, "90 %"),
    (3.0, "99 %"),
    (4.0, "99.9 %"),
    (5.0, "all"),
];

/// The quantiles of a report as points: the place of the percentile, and milliseconds.
fn curve(times: &Value) -> Vec<(f64, f64)> {
    let places = [
        ("p10", 0.0),
        ("p25", 0.375),
        ("p50", 1.0),
        ("p75", 1.6),
        ("p90", 2.0),
        ("p95", 2.3),
        ("p99", 3.0),
        ("p99.9", 4.0),
        ("max", 5.0),
    ];
    let point = |(name, place): &(&str, f64)| Some((*place, times[*name].as_f64()? * 1e3));
    places.iter().filter_map(point).collect()
}

fn endings(endings: &Value, streams: f64) -> String {
    let mut table = "<table>\n<tr><th>ending<th>streams<th>share\n".to_owned();
    for (name, count) in endings.as_object().into_iter().flatten() {
        let share = 100.0 * number(count) / streams.max(1.0);
        if number(count) > 0.0 {
            let _ = writeln!(
                table,
                "<tr><td>{name}<td>{count}<td><meter max=\"100\" value=\"{share:.3}\"></meter> {share:.2} %"
            );
        }
    }
    table + "</table>\n"
}

/// Lines over an axis with these marks, from zero up.
fn plot(
    series: &[(&str, Vec<(f64, f64)>)],
    marks: &[(f64, impl AsRef<str>)],
    axis: &str,
    unit: &str,
) -> String {
    let all = series.iter().flat_map(|(_, points)| points);
    let most = all.map(|(_, y)| *y).fold(0.0, f64::max);
    if series.iter().all(|(_, points)| points.is_empty()) {
        return "<p>No values.</p>\n".to_owned();
    }
    let top = if most > 0.0 { most * 1.05 } else { 1.0 };
    let right = marks.last().map_or(1.0, |(x, _)| *x).max(f64::MIN_POSITIVE);
    let x = |value: f64| LEFT + (WIDTH - LEFT - 8.0) * value / right;
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
    let names: Vec<&str> = series.iter().map(|(name, _)| *name).collect();
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} by {axis}, at most {most:.2} {unit}\">\n",
        HEIGHT + 20.0,
        names.join(" and ")
    );
    for part in 0..=4 {
        let value = top * f64::from(part) / 4.0;
        let at = y(value);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1} {unit}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (place, name) in marks {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(*place).min(WIDTH - 20.0),
            HEIGHT - 10.0,
            name.as_ref()
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\">{axis}</text>",
        HEIGHT + 10.0
    );
    for (index, (name, points)) in series.iter().enumerate() {
        let line: Vec<String> = points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        let label = WIDTH - 110.0;
        let _ = writeln!(
            svg,
            "<polyline class=\"line s{index}\" points=\"{}\"/><rect class=\"s{index}\" x=\"{label}\" y=\"{}\" width=\"10\" height=\"10\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            line.join(" "),
            HEIGHT + 2.0 - 14.0 * index as f64 - 200.0,
            label + 16.0,
            HEIGHT + 11.0 - 14.0 * index as f64 - 200.0,
        );
    }
    svg + "</svg>\n"
}

fn reason(reason: &Value) -> String {
    let text = |field: &str| escaped(reason[field].as_str().unwrap_or_default());
    format!(
        "<li>{}: {} ({})</li>",
        text("ending"),
        text("reason"),
        reason["count"]
    )
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// A reason may have text of the server in it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "pass": false, "broken_thresholds": ["cut streams: 50%"], "streams": 2, "elapsed": 1.0, "chunks": 3,
            "records": 3, "bytes": 9, "endings": {"complete": 1, "cut": 1, "timeout": 0},
            "reasons": [{"ending": "cut", "reason": "<script>alert(\"&\")</script>", "count": 1}],
            "latency": {"first_chunk": {"p10": 0.001, "p50": 0.002, "max": 0.004}},
            "service_time": {"first_chunk": {}},
            "timeline": {"step": 0.5, "points": [{"gap_mean": 0.01, "gap_max": 0.02}, {"gap_mean": 0.03, "gap_max": 0.2}]},
        })
    }

    #[test]
    fn every_value_has_its_place() {
        let page = page(&report());
        assert!(page.contains("<tr><td>cut<td>1<td>") && page.contains("50.00 %"));
        assert!(!page.contains("timeout"), "no stream ended so");
        // Three quantiles, and two points of time, on the scale of their plot.
        assert!(
            page.contains("points=\"64.0,149.1 193.6,106.3 712.0,20.6\""),
            "{page}"
        );
        assert!(page.contains(
            "aria-label=\"longest and mean by time since the first stream, at most 200.00 ms\""
        ));
        assert!(page.contains("fail: cut streams: 50%"));
    }

    #[test]
    fn the_text_of_a_server_is_no_markup() {
        let page = page(&report());
        assert!(!page.contains("<script"));
        assert!(page.contains("&lt;script>alert(&quot;&amp;&quot;)"));
    }

    #[test]
    fn a_run_without_chunks_has_no_plots() {
        let mut report = report();
        report["latency"] = json!({});
        report["timeline"]["points"] = json!([]);
        assert_eq!(page(&report).matches("No values.").count(), 2);
    }
}
