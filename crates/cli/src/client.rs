//! `ingle ps` and `ingle stop`: what a running server has in memory.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ingle_egress::{Backoff, Class, Client, Credential, EgressError, Request, Secret, Target};
use serde_json::{Value, json};

use crate::chat::escape_line;
use crate::serve::{HOST_DEFAULT, PORT_DEFAULT, split_commas};
use crate::settings::compat::Facts;
use crate::settings::{Commands, ServerAddress, Settings, Usage, parse};

pub const PS: Usage = Usage {
    name: "ps",
    about: "List the models that a running server has in memory.\n\n\
            The server is found where `ingle serve` would listen with the same settings; --server (or OLLAMA_HOST) names \
            another.",
    command: Commands::CLIENT,
    positional: &[],
};

pub const STOP: Usage = Usage {
    name: "stop",
    about: "Ask a running server to unload a model, as soon as nobody uses it.\n\n\
            The server is found as by `ingle ps`. It must be one whose models come and go: several, or --keep-alive.",
    command: Commands::CLIENT,
    positional: &[("MODEL", "The model's name")],
};

/// How long a server may take to answer. It only looks at what it knows.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest reply.
const BYTES_MAX: u64 = 16 << 20;
/// What a server says the first time is its answer: one that loads a model says so with a status.
const ONCE: Backoff =
    Backoff { attempts: 1, base: Duration::ZERO, max: Duration::ZERO, asked_max: Duration::MAX };
/// Ollama's way to say for ever: a time so far away.
const FOR_EVER: i64 = 50 * 365 * 86_400;

/// `ingle ps`
pub fn ps(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(PS, &[], args, &Facts::default())?;
    let settings = parsed.settings;
    let reply = call(&settings, "/api/ps", None)?;
    let models = reply["models"].as_array().context("the server's reply has no list of models")?;
    let mut out = std::io::stdout().lock();
    if settings.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "models": models }))?)?;
        return Ok(());
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let rows: Vec<[String; 6]> = models.iter().map(|model| row(model, now.as_secs() as i64)).collect();
    write!(out, "{}", table(["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], &rows))?;
    Ok(())
}

/// `ingle stop`
pub fn stop(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(STOP, &[], args, &Facts::default())?;
    let Some(model) = parsed.positional.first() else {
        misuse!("name the model: `ingle ps` lists those in memory");
    };
    let body = json!({ "model": model, "keep_alive": 0, "stream": false });
    let reply = call(&parsed.settings, "/api/generate", Some(body.to_string()))?;
    if parsed.settings.json {
        writeln!(std::io::stdout(), "{reply}")?;
    }
    match reply["done_reason"].as_str() {
        Some("unload") => Ok(()),
        _ => bail!("the server did not say that it unloads `{model}`"),
    }
}

/// The names of the models that the configured server has in memory.
///
/// # Errors
/// If it cannot be asked.
pub fn names() -> Result<Vec<String>> {
    let (parsed, _) = parse(PS, &[], &[], &Facts::default())?;
    let reply = call(&parsed.settings, "/api/ps", None)?;
    let models = reply["models"].as_array().cloned().unwrap_or_default();
    Ok(models.iter().filter_map(|model| model["name"].as_str().map(escape_line)).collect())
}

/// Where the server is, as the settings say.
fn address(s: &Settings) -> ServerAddress {
    if let Some(address) =
        s.server.as_ref().filter(|_| s.listen.is_empty() && s.host.is_none() && s.port.is_none())
    {
        return address.for_clients();
    }
    let (host, port) = match s.listen.first() {
        Some(listen) if s.host.is_none() && s.port.is_none() => (listen.ip().to_string(), listen.port()),
        _ => {
            let host = s.host.as_deref().unwrap_or(HOST_DEFAULT).split(',').next().unwrap_or(HOST_DEFAULT);
            (host.trim().to_owned(), s.port.unwrap_or(PORT_DEFAULT))
        }
    };
    ServerAddress { host, port, is_https: false, path: String::new() }.for_clients()
}

/// The key to show: the first that is known.
fn key(s: &Settings) -> Option<String> {
    split_commas(&s.api_key).into_iter().find(|key| !key.trim().is_empty())
}

/// A reply of the server, if it is a good one.
fn call(settings: &Settings, path: &str, body: Option<String>) -> Result<Value> {
    let address = address(settings);
    let target = Target::parse(&format!("{}{path}", address.to_string().trim_end_matches('/')))?;
    let client = Client::new(crate::network::to_server(settings, &target)?.permit(Class::Peer)?);
    let key = key(settings).map(|key| Credential::bearer(target.origin(), Secret::new(key)));
    let request = match body {
        Some(body) => Request::post(target, body).header("content-type", "application/json"),
        None => Request::get(target),
    };
    let request = request.authorize(key.as_ref()).without_redirects().backoff(ONCE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async {
        let response = client.send(&request).await?;
        Ok::<_, EgressError>((response.status(), response.bytes(BYTES_MAX).await?))
    };
    let reply = runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
    runtime.shutdown_background();
    let reply = reply.map_err(|_| anyhow!("{address} did not answer within {} s", PATIENCE.as_secs()))?;
    let (status, body) = reply.map_err(|failure| {
        anyhow!("{failure}; is a server running there? `ingle serve` starts one, --server (or OLLAMA_HOST) names another")
    })?;
    read(status, &body, &address)
}

fn read(status: u16, body: &[u8], address: &ServerAddress) -> Result<Value> {
    let value: Result<Value, _> = serde_json::from_slice(body);
    if (200..300).contains(&status) {
        return value.with_context(|| format!("{address} gave no JSON; is it a server of models?"));
    }
    let said = value.ok().and_then(|value| value["error"].as_str().map(escape_line));
    match (status, said) {
        (401, said) => {
            let said = said.map(|said| format!(": {said}")).unwrap_or_default();
            bail!("{address} wants a key (--api-key or INGLE_API_KEY){said}")
        }
        (_, Some(said)) => bail!("{said}"),
        (status, None) => bail!("{address} answered with status {status}"),
    }
}

/// A model's row, as Ollama's table has it.
fn row(model: &Value, now: i64) -> [String; 6] {
    let text = |name: &str| escape_line(model[name].as_str().unwrap_or("?"));
    let number = |name: &str| model[name].as_u64().unwrap_or(0);
    let (size, on_gpu) = (number("size"), number("size_vram"));
    let processor = match (on_gpu * 100).checked_div(size).unwrap_or(0) {
        0 => "100% CPU".into(),
        100.. => "100% GPU".into(),
        share => format!("{}%/{share}% CPU/GPU", 100 - share),
    };
    let until = match parse_time(model["expires_at"].as_str().unwrap_or("")) {
        Some(time) if time - now > FOR_EVER => "Forever".into(),
        Some(time) if time <= now => "Stopping...".into(),
        Some(time) => format!("{} from now", span(time - now)),
        None => "?".into(),
    };
    let id = text("digest").trim_start_matches("sha256:").chars().take(12).collect();
    [text("name"), id, crate::commands::bytes(size), processor, number("context_length").to_string(), until]
}

/// Seconds since the epoch of a time such as `2025-03-14T15:09:26.5Z`, in UTC.
fn parse_time(text: &str) -> Option<i64> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let offset = match text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()) {
        "Z" | "" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let number = |from: usize, to: usize| zone.get(from..to)?.parse::<i64>().ok();
            sign * (number(1, 3)? * 3600 + number(4, 6)? * 60)
        }
    };
    // Days since the epoch, with years that begin in March (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// `4 minutes`, as people say it.
fn span(seconds: i64) -> String {
    let (n, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    if n == 1 { format!("1 {unit}") } else { format!("{n} {unit}s") }
}

/// Columns under their names, four blanks apart.
fn table<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> String {
    let width =
        |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([names[i].len()]).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("    ").trim_end())
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|i| row[i].as_str())));
    std::iter::once(line(names)).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T22:13:20.000000000Z", 1_700_000_000),
            ("2024-02-29T12:00:00.5+01:00", 1_709_204_400),
            ("2318-01-01T00:00:00-07:00", 10_981_785_600 + 7 * 3600),
        ] {
            assert_eq!(parse_time(text), Some(expected), "{text}");
        }
        for wrong in ["", "soon", "2024-02-29", "2024-02-29T12:00:00+x"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rows_look_as_ollama_s() {
        let model = json!({
            "name": "small:latest", "digest": format!("sha256:{}", "0123456789abcdef"), "size": 1_500_000_000_u64, "size_vram": 0,
            "context_length": 4096, "expires_at": "2023-11-14T22:17:30Z",
        });
        let first = row(&model, 1_700_000_000);
        assert_eq!(
            first,
            ["small:latest", "0123456789ab", "1.50 GB", "100% CPU", "4096", "4 minutes from now"]
        );
        let text = table(["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], &[first]);
        assert_eq!(
            text.lines().next(),
            Some("NAME            ID              SIZE       PROCESSOR    CONTEXT    UNTIL")
        );
        let never =
            json!({ "name": "a\x1b[2J", "size": 100, "size_vram": 40, "expires_at": "2318-01-01T00:00:00Z" });
        let row = row(&never, 1_700_000_000);
        assert_eq!(
            (row[0].as_str(), row[3].as_str(), row[5].as_str()),
            ("a␛[2J", "60%/40% CPU/GPU", "Forever")
        );
    }

    #[test]
    fn servers_are_found_where_they_would_listen() {
        let check = |said: &[(&str, &str)], expected: &str| {
            let mut settings = Settings::default();
            for (key, value) in said {
                let setting = crate::settings::TABLE.iter().find(|s| s.key == *key).expect("a setting");
                (setting.set)(&mut settings, value).expect("a value");
            }
            assert_eq!(address(&settings).to_string(), expected, "{said:?}");
        };
        check(&[], "http://127.0.0.1:8080");
        check(&[("port", "1")], "http://127.0.0.1:1");
        check(&[("host", "0.0.0.0"), ("port", "1")], "http://127.0.0.1:1");
        check(&[("listen", "0.0.0.0:9")], "http://127.0.0.1:9");
        check(&[("server", "box")], "http://box:11434");
        check(&[("server", "https://box/x")], "https://box:443/x");
        check(&[("server", "box"), ("port", "1")], "http://127.0.0.1:1");
    }

    #[test]
    fn refusals_are_told_in_the_server_s_words() {
        let address = address(&Settings::default());
        let check = |status: u16, body: &str, words: &str| {
            let error = read(status, body.as_bytes(), &address).expect_err(body).to_string();
            assert!(error.contains(words), "{error}");
        };
        check(404, r#"{"error": "there is no model `x`\u001b[2J"}"#, "there is no model `x`␛[2J");
        check(401, "", "wants a key (--api-key");
        check(502, "<html>", "status 502");
        check(200, "<html>", "no JSON");
    }
}
