//! The Metal sources' types, by Clang: address spaces and vectors are its own, so that it refuses
//! what Apple's compiler, which is built of it, would refuse. What Clang has no words for is read
//! from the text: attributes of arguments, and constants at a program's scope.
//!
//! Without Clang 17 or newer the tests say so and pass, unless `MAST3R_REQUIRE_CLANG` is set.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The names of the compiler, but for `CLANG`.
const NAMES: [&str; 7] = [
    "clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17",
];
/// The first whose `__bf16` is a number.
const OLDEST: u32 = 17;

/// The compiler, if there is one.
fn clang() -> Option<String> {
    let own = std::env::var("CLANG").ok();
    let found = own
        .into_iter()
        .chain(NAMES.map(String::from))
        .find(|name| version(name).is_some_and(|version| version >= OLDEST));
    if found.is_none() {
        assert!(
            std::env::var_os("MAST3R_REQUIRE_CLANG").is_none(),
            "MAST3R_REQUIRE_CLANG is set, and there is no Clang of version {OLDEST} or newer"
        );
        println!("skipped: no Clang of version {OLDEST} or newer");
    }
    found
}

fn version(name: &str) -> Option<u32> {
    // Apple numbers its own otherwise, and has Metal.
    let output = Command::new(name).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once("clang version ")?;
    rest.split('.').next()?.parse().ok()
}

/// What the compiler has to say about a source, and what the text breaks.
fn refused(clang: &str, source: &str) -> Option<String> {
    let mut complaints = breaches(source);
    let folder = TempDir::new().unwrap();
    // Clang takes no attributes in an instantiation.
    let plain: Vec<&str> = source.split("[[host_name(\"").collect();
    let mut text = plain[0].to_string();
    for rest in &plain[1..] {
        text += rest.split_once("[[kernel]]").expect("[[kernel]]").1;
    }
    let path = folder.path().join("shader.cpp");
    std::fs::write(&path, text).unwrap();
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metal/typed");
    let output = Command::new(clang)
        .args(["-x", "c++", "-std=c++14", "-fsyntax-only", "-nostdinc"])
        // Its types and not the processor's of this machine.
        .args(["--target=x86_64-linux-gnu", "-fno-exceptions", "-fno-rtti"])
        .args(["-Werror", "-Wall", "-Wconversion", "-pedantic-errors"])
        .args(["-Wno-unknown-attributes", "-Wno-unknown-pragmas"])
        .arg("-fno-lax-vector-conversions")
        .arg("-isystem")
        .arg(header)
        .arg(&path)
        .output()
        .unwrap();
    if !output.status.success() {
        complaints.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    (!complaints.is_empty()).then(|| complaints.join("\n"))
}

/// The source without comments and with the macro of arguments, if it has one, in its places.
fn expanded(source: &str) -> String {
    let code: Vec<&str> = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim_end())
        .collect();
    let code = code.join("\n");
    let Some((before, rest)) = code.split_once("#define SEARCH_ARGUMENTS") else {
        return code;
    };
    let (arguments, after) = rest.split_once("\n\n").expect("an empty line");
    let arguments = arguments.replace("\\\n", "\n");
    format!("{before}{}", after.replace("SEARCH_ARGUMENTS", &arguments))
}

/// Arguments of kernels without their attribute or address space, and variables at the scope of
/// the program that are not `constant`.
fn breaches(source: &str) -> Vec<String> {
    let code = expanded(source);
    let mut breaches = Vec::new();
    for kernel in code.split("[[kernel]] void ").skip(1) {
        let (name, rest) = kernel.split_once('(').expect("arguments");
        let (arguments, _) = rest.split_once(") {").expect("a body");
        for argument in arguments.split(',').map(str::trim) {
            let is_memory = argument.contains('*') || argument.contains('&');
            let attribute = if is_memory {
                "[[buffer("
            } else {
                "[[thread_position_in_grid]]"
            };
            let groups = argument.contains("[[threadgroups_per_grid]]");
            if !argument.contains(attribute) && (!groups || is_memory) {
                breaches.push(format!("{name}: no {attribute} in {argument:?}"));
            }
            let spaces = ["device ", "constant "];
            if is_memory && !spaces.iter().any(|space| argument.starts_with(space)) {
                breaches.push(format!("{name}: no address space in {argument:?}"));
            }
        }
    }
    let mut depth = 0;
    for line in code.lines() {
        let is_variable = line.contains('=') && !line.starts_with("#") && line.ends_with(';');
        if depth == 0 && is_variable && !line.split(' ').any(|word| word == "constant") {
            breaches.push(format!("not constant: {line}"));
        }
        depth += line.matches('{').count();
        depth -= line.matches('}').count();
    }
    // Metal's C++ has none.
    if let Some(line) = code
        .lines()
        .find(|line| line.contains("[&]") || line.contains("[=]"))
    {
        breaches.push(format!("a lambda: {line}"));
    }
    breaches
}

/// All Metal sources of this crate.
fn shaders() -> Vec<(PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let folders = files(&source).into_iter().filter(|path| path.is_dir());
    let mut found: Vec<(PathBuf, String)> = folders
        .flat_map(|folder| files(&folder))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "metal")
        })
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_shader_has_metals_types() {
    let Some(clang) = clang() else { return };
    let shaders = shaders();
    assert!(shaders.len() >= 9, "{} shaders", shaders.len());
    for (path, source) in shaders {
        if let Some(complaint) = refused(&clang, &source) {
            panic!("{} by {clang}:\n{complaint}", path.display());
        }
    }
}

/// A kernel around `body` and arguments of its own.
fn kernel(arguments: &str, body: &str) -> String {
    format!(
        "#include <metal_stdlib>\nusing namespace metal;\n\
         template <typename V, typename F>\n\
         [[kernel]] void wrong({arguments}, uint3 position [[thread_position_in_grid]]) {{\n{body}\n}}\n\
         template [[host_name(\"wrong_f16_x4\")]] [[kernel]] decltype(wrong<half4, float4>) wrong<half4, float4>;\n"
    )
}

#[test]
fn what_metal_refuses_is_refused() {
    let Some(clang) = clang() else { return };
    const IN_AND_OUT: &str = "device const V* x [[buffer(0)]], device V* out [[buffer(1)]]";
    let right = kernel(
        IN_AND_OUT,
        "out[position.x] = V(F(x[position.x]) + F(1.0f));",
    );
    assert_eq!(refused(&clang, &right), None);
    for (what, arguments, body, complaint) in [
        (
            "a pointer into a thread's memory takes a device address",
            IN_AND_OUT,
            "const V* from = x; out[0] = from[0];",
            "cannot initialize",
        ),
        (
            "an argument without an address space",
            "const V* x [[buffer(0)]], device V* out [[buffer(1)]]",
            "out[0] = x[0];",
            "no address space",
        ),
        (
            "an argument without a buffer",
            "device const V* x, device V* out [[buffer(1)]]",
            "out[0] = x[0];",
            "no [[buffer(",
        ),
        (
            "a place without its attribute",
            "device V* out [[buffer(1)]], uint lane",
            "out[lane] = V(F(0.0f));",
            "no [[thread_position_in_grid]]",
        ),
        (
            "threadgroup memory as device memory",
            "device V* out [[buffer(0)]], threadgroup V* shared [[buffer(1)]]",
            "device V* to = shared; to[0] = out[0];",
            "cannot initialize",
        ),
        (
            "device memory as constant",
            IN_AND_OUT,
            "constant V* from = x; out[0] = from[0];",
            "cannot initialize",
        ),
        (
            "writing to what is constant",
            "device V* out [[buffer(0)]], constant F& params [[buffer(1)]]",
            "params = F(out[0]);",
            "cannot assign",
        ),
        (
            "a vector of half that becomes one of float by itself",
            IN_AND_OUT,
            "const F wide = x[0]; out[0] = V(wide);",
            "cannot initialize",
        ),
        (
            "a vector of float that becomes one of half by itself",
            IN_AND_OUT,
            "out[0] = F(x[0]) * F(2.0f);",
            "from incompatible type",
        ),
        (
            "half and float in one product",
            IN_AND_OUT,
            "out[0] = V(x[0] * F(x[0]));",
            "cannot convert between vector values",
        ),
        (
            "a rounding to half that is not written",
            "device const float* x [[buffer(0)]], device half* out [[buffer(1)]]",
            "out[0] = x[0];",
            "loses floating-point precision",
        ),
        (
            "float that becomes bfloat by itself",
            "device const float* x [[buffer(0)]], device bfloat* out [[buffer(1)]]",
            "out[0] = x[0];",
            "loses floating-point precision",
        ),
        (
            "half that becomes bfloat by itself",
            "device const half* x [[buffer(0)]], device bfloat* out [[buffer(1)]]",
            "out[0] = x[0];",
            "from incompatible type",
        ),
        (
            "double precision",
            IN_AND_OUT,
            "const double two = 2; out[0] = x[0];",
            "poisoned",
        ),
        (
            "an atomic that is read as a number",
            "device atomic_uint* count [[buffer(0)]], device uint* out [[buffer(1)]]",
            "out[0] = count[0];",
            "from incompatible type",
        ),
        (
            "a lambda",
            IN_AND_OUT,
            "const auto twice = [&](F x) { return x + x; }; out[0] = V(twice(F(x[0])));",
            "a lambda",
        ),
        (
            "a name that Metal's library does not have",
            IN_AND_OUT,
            "out[0] = V(erf(F(x[0])));",
            "erf",
        ),
    ] {
        let message = refused(&clang, &kernel(arguments, body));
        let message = message.unwrap_or_else(|| panic!("{what}: taken"));
        assert!(message.contains(complaint), "{what}: {message}");
    }
    let global = right.replace(
        "template <typename V",
        "const uint WIDTH = 3;\ntemplate <typename V",
    );
    let message = refused(&clang, &global).expect("a variable in no address space");
    assert!(
        message.contains("not constant: const uint WIDTH"),
        "{message}"
    );
}
