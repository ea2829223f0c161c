//! What Python's torch and bitsandbytes take for the same things, where Python has them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::{Table, number};

/// Runs `benches/peers/gpu_peers.py`: a line of JSON for each thing it timed, or for why it did not.
///
/// # Errors
/// When its output is no JSON. A Python that is missing is a line in the table.
pub fn table(python: &str) -> Result<Option<Table>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/gpu_peers.py");
    let output = match Command::new(python).arg(&script).output() {
        Ok(output) => output,
        Err(error) => {
            println!("peers: {python} does not start ({error}); --python names another\n");
            return Ok(None);
        }
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        println!(
            "peers: {} fails: {}\n",
            script.display(),
            words.trim_end().lines().last().unwrap_or("it does not say why")
        );
        return Ok(None);
    }
    parse(&String::from_utf8_lossy(&output.stdout)).map(Some)
}

fn parse(lines: &str) -> Result<Table> {
    let mut table = Table::new("Peers in Python", "", &["what", "ms", "TFLOP/s"]);
    for line in lines.lines().filter(|line| line.starts_with('{')) {
        let entry: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let name = entry["name"].as_str().with_context(|| format!("no name in {line}"))?.to_owned();
        match (entry["skipped"].as_str(), entry["ms"].as_f64()) {
            (Some(reason), _) => table.rows.push(vec![format!("{name}: {reason}"), "–".into(), "–".into()]),
            (None, Some(ms)) => {
                let rate = entry["flops"].as_f64().map_or("–".into(), |flops| number(flops / ms / 1e9));
                table.rows.push(vec![name, number(ms), rate]);
            }
            (None, None) => anyhow::bail!("no time in {line}"),
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows() {
        let table = parse(
            "a warning\n{\"name\": \"torch matmul\", \"ms\": 2.0, \"flops\": 1e12}\n\
             {\"name\": \"bitsandbytes\", \"skipped\": \"not installed\"}\n",
        )
        .unwrap();
        assert_eq!(table.rows, [["torch matmul", "2.00", "500"], ["bitsandbytes: not installed", "–", "–"]]);
        assert!(parse("{\"name\": \"x\"}").is_err());
    }
}
