//! The golden corpus of configuration files: `tests/config/NAME.yaml` beside `NAME.out`.
//!
//! An `.out` holds what `wardgate check` prints about the file; an empty one says that nothing is
//! wrong. `UPDATE_GOLDEN=1` writes them anew: read the difference before committing it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wardgate::config::{self, LoadError};

/// What a hostile file may cost. The promise is a second for the release build; tests run without
/// optimisation and beside each other, where the limit only tells slow from endless.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 1 });

fn corpus() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    files.sort();
    files
}

/// What `check` prints about the file, under its bare name.
fn printed(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    match config::from_text(name, &text, path.parent().unwrap()) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(faults) => faults.to_string(),
    }
}

#[test]
fn every_file_of_the_corpus_is_answered_as_its_golden_file_says() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = String::new();
    for path in corpus() {
        let golden = path.with_extension("out");
        let found = printed(&path);
        if update {
            std::fs::write(&golden, found).unwrap();
            continue;
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        if found != wanted {
            let _ = writeln!(wrong, "{}\nwanted:\n{wanted}\nfound:\n{found}", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_corpus_is_large_and_only_files_called_valid_are_valid() {
    let files = corpus();
    let (mut broken, mut valid) = (0, 0);
    for path in &files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_sound = config::load(path).is_ok();
        let claims = name.starts_with("valid-") || name.starts_with("warning-");
        assert_eq!(is_sound, claims, "{name}");
        if is_sound { valid += 1 } else { broken += 1 }
    }
    assert!(broken >= 100, "{broken} broken files");
    assert!(valid >= 10, "{valid} valid files");
}

/// The real program with `arguments`, in the directory of the corpus.
fn wardgate(arguments: &[&str]) -> std::process::Output {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_wardgate"));
    program.args(arguments).current_dir(directory).output().unwrap()
}

#[test]
fn the_program_prints_the_golden_answers_and_says_by_its_status_what_they_are() {
    for path in corpus() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let answer = wardgate(&["check", name]);
        let wanted = std::fs::read_to_string(path.with_extension("out")).unwrap();
        assert_eq!(String::from_utf8(answer.stderr).unwrap(), wanted, "{name}");
        let is_sound = name.starts_with("valid-") || name.starts_with("warning-");
        assert_eq!(answer.status.code(), Some(if is_sound { 0 } else { 2 }), "{name}");
    }
    let absent = wardgate(&["check", "no-such-file.yaml"]);
    assert_eq!(absent.status.code(), Some(1), "it cannot be read");
    assert!(String::from_utf8(absent.stderr).unwrap().contains("no-such-file.yaml"));
}

#[test]
fn the_program_prints_the_effective_configuration_and_the_schema() {
    let config = wardgate(&["config", "valid-secret-from-file.yaml"]);
    let yaml = String::from_utf8(config.stdout).unwrap();
    assert!(config.status.success() && yaml.contains("***") && !yaml.contains("hunter2"), "{yaml}");
    let schema = wardgate(&["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema, config::schema::json());
}

/// Loads `bytes` as a file, within the time that a hostile one may take.
fn answer(bytes: &[u8]) -> Result<config::Loaded, LoadError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.yaml");
    std::fs::write(&path, bytes).unwrap();
    let start = Instant::now();
    let answer = config::load(&path);
    let shown = answer.as_ref().err().map(ToString::to_string);
    let took = start.elapsed();
    drop(shown);
    println!("{took:?} for {} bytes", bytes.len());
    assert!(took < PATIENCE, "{took:?} for {} bytes", bytes.len());
    answer
}

/// The first message about `bytes`.
fn complaint(bytes: &[u8]) -> String {
    match answer(bytes) {
        Err(LoadError::Faults(faults)) => faults.iter().next().unwrap().message.clone(),
        Err(error) => panic!("{error}"),
        Ok(_) => String::new(),
    }
}

#[test]
fn hostile_files_get_a_clear_answer_in_time() {
    let huge = vec![b'a'; 100 << 20];
    assert_eq!(complaint(&huge), "the file is larger than 8 MiB");
    assert_eq!(complaint(b"sites:\n  a\xff: 1\n"), "the file is not UTF-8 text");
    assert_eq!(complaint("[".repeat(100_000).as_bytes()), "the nesting is too deep");
    assert_eq!(complaint("{a: ".repeat(100_000).as_bytes()), "the nesting is too deep");
    assert_eq!(complaint("- ".repeat(100_000).as_bytes()), "the nesting is too deep");
    let steps: String = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert_eq!(complaint(steps.as_bytes()), "the nesting is too deep");
    assert_eq!(complaint(b"sites:\n\ta: 1\n"), "a tab cannot be used as indentation");

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        let _ = writeln!(bomb, "a{level}: &a{level} [{below}]");
    }
    assert_eq!(complaint(bomb.as_bytes()), "the file has more than 1000000 values");

    let keys = "log: {}\n".repeat(100_000);
    assert_eq!(complaint(keys.as_bytes()), "\"log\" is set twice");
    let unknown: String = (0..100_000).map(|key| format!("key{key}: 1\n")).collect();
    assert_eq!(complaint(unknown.as_bytes()), "unknown key \"key0\"");
    let long = format!("log: {{ level: {} }}\n", "x".repeat(7 << 20));
    assert!(complaint(long.as_bytes()).ends_with("is not a log level"));
    let servers: String = (0..200_000).map(|port| format!("\"http://a:{port}\", ")).collect();
    let pool = format!("upstreams: {{ app: {{ servers: [{servers}] }} }}\n");
    assert_eq!(complaint(pool.as_bytes()), "a server's port is 1 to 65535");
    let binds = "\":0\", ".repeat(200_000);
    let listener = format!("listeners: {{ web: {{ protocol: http, bind: [{binds}] }} }}\n");
    assert_eq!(complaint(listener.as_bytes()), "more than 1000 addresses to listen on");
    let nothing = "{ upstream: }, ".repeat(200_000);
    let routes = format!("sites: {{ a.test: {{ routes: [{nothing}] }} }}\n");
    assert_eq!(complaint(routes.as_bytes()), "\"upstream\" has no value");
    let open = format!("storage: \"{}}}\"\n", "${".repeat(1 << 21));
    assert_eq!(complaint(open.as_bytes()), "");
    let names: String =
        (0..5_000).map(|name| format!("  pool{name}: {{ servers: http://a }}\n")).collect();
    let sites: String =
        (0..5_000).map(|name| format!("  a{name}.test: {{ upstream: pol{name}x }}\n")).collect();
    let unknown = format!("upstreams:\n{names}sites:\n{sites}");
    assert!(complaint(unknown.as_bytes()).starts_with("no upstream is called"));
    let regex = "sites:\n  a.test:\n    routes:\n    - match: { path_regex: '((a{500}){500}){500}' }\n      respond: 200\n";
    assert_eq!(complaint(regex.as_bytes()), "this regular expression is too large");
}

#[test]
fn ten_thousand_sites_are_not_hostile() {
    let mut text =
        "upstreams:\n  app: { servers: [\"http://127.0.0.1:9000\"] }\nsites:\n".to_owned();
    for site in 0..10_000 {
        let _ = write!(
            text,
            "  site{site}.example.test:\n    aliases: [www.site{site}.example.test]\n    routes:\n      - match: {{ path: /api/*, method: [GET, POST] }}\n        upstream: app\n      - match: {{ path: /old/* }}\n        redirect: \"https://new.example/{{path}}\"\n    upstream: app\n"
        );
    }
    let loaded = answer(text.as_bytes()).unwrap();
    assert_eq!(loaded.config.sites.len(), 10_000);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_file_cut_anywhere_is_answered_without_a_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid-everything.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        drop(config::from_text("gateway.yaml", &text[..end], Path::new("")));
    }
}

#[test]
fn random_and_mangled_bytes_are_answered_without_a_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid-everything.yaml");
    let sound = std::fs::read(path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let marks = b":-[]{}\"'*&!|>#%@`,? \n\t~$0a\xc3";
    for _ in 0..2_000 {
        let mut bytes = sound.clone();
        for _ in 0..=random(6) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = marks[random(marks.len())],
                1 => bytes.insert(at, marks[random(marks.len())]),
                _ => drop(bytes.drain(at..(at + random(20)).min(bytes.len()))),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let answer = config::from_text("gateway.yaml", &text, Path::new(""));
        drop(answer.map_err(|faults| faults.to_string()));
        let noise: String = (0..200).map(|_| char::from(marks[random(marks.len())])).collect();
        let answer = config::from_text("gateway.yaml", &noise, Path::new(""));
        drop(answer.map_err(|faults| faults.to_string()));
    }
}

#[test]
fn the_effective_configuration_loads_again_to_the_same() {
    let line = regex::Regex::new(r"line: \d+").unwrap();
    let shown = |config: &config::Config| line.replace_all(&format!("{config:?}"), "").into_owned();
    for path in corpus() {
        let Ok(loaded) = config::load(&path) else { continue };
        let yaml = config::effective::yaml(&loaded);
        if yaml.contains("***") {
            assert!(!yaml.contains("hunter2"), "{yaml}");
            continue;
        }
        let again = config::from_text("effective", &yaml, path.parent().unwrap());
        let again = again.unwrap_or_else(|faults| panic!("{}\n{yaml}\n{faults}", path.display()));
        assert_eq!(shown(&loaded.config), shown(&again.config), "{}\n{yaml}", path.display());
        assert_eq!(config::effective::yaml(&again), yaml, "it is complete");
        let warnings = (loaded.warnings.warning_count(), again.warnings.warning_count());
        assert_eq!(warnings.0, warnings.1, "{}\n{}", path.display(), again.warnings);
    }
}

#[test]
fn the_effective_configuration_masks_what_came_from_a_file() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid-secret-from-file.yaml");
    let loaded = config::load(&path).unwrap();
    let yaml = config::effective::yaml(&loaded);
    assert!(yaml.contains("body: '***'") && !yaml.contains("hunter2"), "{yaml}");
    assert!(!format!("{:?}", loaded.warnings).contains("hunter2"));
}

/// Whether `value` conforms to `schema`, a part of `whole`, as far as our schema's keywords go.
fn conforms(
    value: &serde_json::Value,
    schema: &serde_json::Value,
    whole: &serde_json::Value,
) -> bool {
    use serde_json::Value;
    let Value::Object(schema) = schema else { return schema == &Value::Bool(true) };
    let conforms = |value: &Value, schema: &Value| conforms(value, schema, whole);
    let is_type = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    let any = |schemas: &Value| schemas.as_array().unwrap().iter().any(|one| conforms(value, one));
    schema.iter().all(|(keyword, wanted)| match (keyword.as_str(), value) {
        ("type", _) => match wanted {
            Value::Array(names) => names.iter().any(|name| is_type(name.as_str().unwrap())),
            name => is_type(name.as_str().unwrap()),
        },
        ("$ref", _) => {
            let place = wanted.as_str().unwrap().strip_prefix('#').unwrap();
            conforms(value, whole.pointer(place).unwrap())
        }
        ("anyOf", _) => any(wanted),
        ("oneOf", _) => {
            wanted.as_array().unwrap().iter().filter(|one| conforms(value, one)).count() == 1
        }
        ("enum", _) => wanted.as_array().unwrap().contains(value),
        ("minimum", Value::Number(found)) => found.as_u64() >= wanted.as_u64(),
        ("maximum", Value::Number(found)) => found.as_u64() <= wanted.as_u64(),
        ("pattern", Value::String(found)) => {
            regex::Regex::new(wanted.as_str().unwrap()).unwrap().is_match(found)
        }
        ("minLength", Value::String(found)) => !found.is_empty(),
        ("minItems", Value::Array(found)) => !found.is_empty(),
        ("items", Value::Array(found)) => found.iter().all(|item| conforms(item, wanted)),
        ("required", Value::Object(found)) => {
            wanted.as_array().unwrap().iter().all(|name| found.contains_key(name.as_str().unwrap()))
        }
        ("additionalProperties", Value::Object(found)) => found.iter().all(|(name, item)| {
            let known = schema.get("properties").and_then(|known| known.get(name));
            conforms(item, known.unwrap_or(wanted))
        }),
        _ => true,
    })
}

#[test]
fn the_schema_accepts_every_sound_file_and_no_unknown_key() {
    let schema = config::schema::json();
    for path in corpus() {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let is_sound = name.starts_with("valid-") || name.starts_with("warning-");
        let Ok(value) = serde_yaml::from_str::<serde_json::Value>(&text) else { continue };
        if is_sound && !value.is_null() {
            assert!(conforms(&value, &schema, &schema), "{name}");
        }
        if name.starts_with("key-") || name.starts_with("later-") && !name.contains("certificate") {
            assert!(!conforms(&value, &schema, &schema), "{name}");
        }
    }
}

#[test]
fn the_published_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gateway.schema.json");
    let wanted = format!("{}\n", serde_json::to_string_pretty(&config::schema::json()).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &wanted).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap() == wanted, "run with UPDATE_GOLDEN=1");
}

#[test]
fn every_example_of_the_documentation_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 8);
    for example in examples {
        let loaded = config::from_text("docs/configuration.md", example, Path::new(""));
        let loaded = loaded.unwrap_or_else(|faults| panic!("{example}\n{faults}"));
        assert!(loaded.warnings.is_empty(), "{example}\n{}", loaded.warnings);
    }
}

#[test]
fn the_starter_file_loads_without_a_warning_and_so_does_its_tour() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.yaml");
    let loaded = config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);

    // The tour, with the # taken away: what is indented or ends with a colon is YAML.
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, tour) = text.split_once("# A tour").unwrap();
    let is_yaml =
        |line: &&str| line.starts_with(' ') || line.split('#').next().unwrap().contains(':');
    let is_prose = |line: &&str| line.ends_with('.') && !line.starts_with(' ');
    let lines = tour.lines().skip(1).filter_map(|line| line.strip_prefix("# "));
    let yaml: Vec<&str> = lines.filter(is_yaml).filter(|line| !is_prose(line)).collect();
    let tour = yaml.join("\n");
    let loaded = config::from_text("tour", &tour, Path::new(""));
    let loaded = loaded.unwrap_or_else(|faults| panic!("{tour}\n{faults}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(loaded.config.upstreams.len(), 2);
}
