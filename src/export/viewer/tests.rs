//! Pages, taken apart again.

use nalgebra::{Isometry3, Vector3};
use sha2::Digest as _;

use super::*;
use crate::geometry::{Camera, Intrinsics};
use crate::scene::{PointFilter, SceneView, Thinning, fixtures};

const SIDE: u32 = 16;
const PIXELS: u32 = SIDE * SIDE;

/// A view whose camera stands at `x` and sees a plane at depth 2.
fn view(name: &str, x: f64) -> SceneView {
    let camera = Camera {
        intrinsics: Intrinsics::centred(SIDE, SIDE, 20.0),
        world_from_camera: Isometry3::translation(x, 0.0, 0.0),
    };
    let point = |index: u32| {
        let pixel = [index % SIDE, index / SIDE].map(f64::from);
        let point = camera.unproject(pixel, 2.0);
        [point.x as f32, point.y as f32, point.z as f32]
    };
    let mut view = fixtures::view(name, [SIDE; 2], Some(camera), (0..PIXELS).map(point));
    view.points.confidence = (0..PIXELS).map(|index| 1.0 + index as f32).collect();
    view.depth.fill(2.0);
    let color = |x, y| image::Rgb([x as u8, y as u8, 200]);
    view.rgb = crate::views::pixels(image::RgbImage::from_fn(SIDE, SIDE, color));
    view
}

fn scene(names: &[&str]) -> Scene {
    let views = names.iter().enumerate();
    Scene {
        views: views.map(|(x, name)| view(name, x as f64)).collect(),
        ..Scene::default()
    }
}

fn page(scene: &Scene, title: &str, filter: PointFilter) -> String {
    let mut bytes = Vec::new();
    let selection = scene.select(&filter).unwrap();
    let cameras = cameras(scene, CameraModels::Frustums).unwrap();
    write_page(&selection, &cameras, title, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The content of the scripts whose tag holds `attribute`.
fn scripts<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    page.split("<script")
        .skip(1)
        .filter_map(|script| {
            let (tag, content) = script.split_once('>')?;
            let content = content.split_once("</script>").unwrap().0;
            tag.contains(attribute).then_some(content)
        })
        .collect()
}

fn description_of(page: &str) -> Value {
    let found = scripts(page, "id=\"scene\"");
    assert_eq!(found.len(), 1);
    serde_json::from_str(found[0]).unwrap()
}

#[test]
fn a_page_holds_all_points_and_cameras() {
    let scene = scene(&["a.jpg", "b.jpg"]);
    let page = page(&scene, "house", PointFilter::default());
    let description = description_of(&page);
    assert_eq!(description["title"], "house");
    assert_eq!(description["metric"], false);
    assert_eq!(description["levels"].as_array().unwrap().len(), 256);
    assert_eq!(description["up"]["cameras"], json!([0.0, -1.0, 0.0]));
    let blocks = description["blocks"].as_array().unwrap();
    let counts = blocks.iter().map(|block| block["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 2 * u64::from(PIXELS));
    assert_eq!(scripts(&page, "id=\"block-").len(), blocks.len());
    let cameras = description["cameras"].as_array().unwrap();
    assert_eq!(cameras.len(), 2);
    let entry = &cameras[1]["entry"];
    assert_eq!(entry["name"], "b.jpg");
    assert_eq!(entry["world_from_camera"][0], json!([1.0, 0.0, 0.0, 1.0]));
    assert_eq!(cameras[1]["depth"], 2.0);
    assert_eq!(scripts(&page, "id=\"image-").len(), 2);
    // And the library and the modules.
    assert_eq!(scripts(&page, "").len(), 1 + blocks.len() + 2 + 2);
}

#[test]
fn names_cannot_leave_their_place() {
    let name = "a</script><script>alert(1)</script><!--&\"'.jpg";
    let hostile = scene(&[name, "b.jpg"]);
    let title = "</title><script>alert(2)</script>";
    let page = page(&hostile, title, PointFilter::default());
    let description = description_of(&page);
    assert_eq!(description["title"], title);
    assert_eq!(
        description["cameras"][0]["entry"]["name"],
        CamerasFile::new(&hostile).unwrap().images[0].name
    );
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;alert(2)&lt;/script&gt;"));
}

#[test]
fn equal_scenes_make_equal_bytes() {
    let text = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let scene = scene(&["a.jpg", "b.jpg"]);
        pool.build()
            .unwrap()
            .install(|| page(&scene, "x", PointFilter::default()))
    };
    assert!(text(1) == text(4));
}

#[test]
fn filters_and_thinning_apply() {
    let filter = PointFilter {
        min_confidence: Some(100.0),
        thinning: Thinning {
            voxel: None,
            most: Some(50),
        },
        ..PointFilter::default()
    };
    let description = description_of(&page(&scene(&["a.jpg", "b.jpg"]), "x", filter));
    assert_eq!(description["blocks"][0]["count"], 50);
    assert!(description["levels"][0].as_f64().unwrap() >= 100.0);
}

#[test]
fn a_small_scene_is_a_small_page() {
    let empty = Parts {
        title: "",
        description: &Value::Null,
        blocks: &[],
        images: &[],
    };
    let mut bytes = Vec::new();
    empty.write(&mut bytes).unwrap();
    let page = page(&scene(&["a.jpg"]), "x", PointFilter::default());
    let (alone, added) = (bytes.len(), page.len() - bytes.len());
    assert!(alone < 650_000, "the page alone has {alone} bytes");
    assert!(added < 12_000, "the scene has {added} bytes");
}

#[test]
fn the_policy_names_the_scripts_that_run() {
    let page = page(&scene(&["a.jpg"]), "x", PointFilter::default());
    let (_, policy) = page
        .split_once("Content-Security-Policy\" content=\"")
        .unwrap();
    let policy = policy.split_once('"').unwrap().0;
    let hashes: Vec<Vec<u8>> = policy
        .split('\'')
        .filter_map(|word| word.strip_prefix("sha256-"))
        .map(from_base64)
        .collect();
    let run: Vec<&str> = scripts(&page, "")
        .into_iter()
        .filter(|content| content.contains("THREE"))
        .collect();
    assert_eq!(run.len(), 2);
    for script in run {
        let digest = sha2::Sha256::digest(script.as_bytes());
        assert!(hashes.iter().any(|hash| hash[..] == digest[..]));
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    let value = |char: u8| match char {
        b'A'..=b'Z' => char - b'A',
        b'a'..=b'z' => char - b'a' + 26,
        b'0'..=b'9' => char - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits = text.trim_end_matches('=').bytes().map(value);
    let bits: Vec<u8> = digits
        .flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1))
        .collect();
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | bit);
    bits.chunks_exact(8).map(byte).collect()
}

#[test]
fn a_scene_far_from_the_worlds_origin_keeps_its_precision() {
    let mut far = scene(&["a.jpg"]);
    far.origin = Vector3::new(4e6, 0.0, 5e6);
    let description = description_of(&page(&far, "x", PointFilter::default()));
    assert_eq!(description["origin"], json!([4e6, 0.0, 5e6]));
    let pose = &description["cameras"][0]["entry"]["world_from_camera"];
    assert_eq!(pose[0][3], 4e6);
    assert!(description["extent"]["low"][0].as_f64().unwrap().abs() < 1.0);
}
