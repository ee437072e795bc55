//! Disks that are full: an error that says so, and nothing half written.

use std::fs;
use std::io::{self, Write};
use std::process::Command;

use mast3r::export::{self, CamerasFile, ExportOptions, Format, OutputFile, OutputFolder};
use mast3r::matching::{Match, Pixel};
use mast3r::{Error, Scene};

use super::exports::{scene, view, written};

/// A writer that holds so many bytes and then is full.
struct SmallDisk(usize);

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fitting = bytes.len().min(self.0);
        self.0 -= fitting;
        Ok(fitting)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_writer_reports_a_full_disk() {
    let scene = scene();
    for format in Format::ALL {
        for space in [0, 10, 400, written(&scene, format).len() - 1] {
            let mut disk = SmallDisk(space);
            let error =
                export::write_to(&scene, format, &ExportOptions::default(), &mut disk).unwrap_err();
            let Error::Io { cause, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(
                cause.kind(),
                io::ErrorKind::StorageFull,
                "{format} with {space} bytes"
            );
        }
    }
    let full = || SmallDisk(50);
    let crop = &scene.views[0].crop;
    let pixel = Pixel { x: 0, y: 0 };
    let matches = [Match {
        first: pixel,
        second: pixel,
        confidence: 1.0,
    }];
    let failures = [
        export::write_matches(&matches, crop, crop, &mut full()),
        CamerasFile::new(&scene).unwrap().write(&mut full()),
        export::write_npy(&[100], &[0.0; 100], &mut full()),
        export::write_rgb_png(&scene.views[0].rgb, &mut full()),
    ];
    for failure in failures {
        assert_eq!(failure.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}

/// A small file system of its own, gone when dropped.
#[cfg(target_os = "linux")]
struct Tmpfs(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl Tmpfs {
    /// `None` where mounting is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let Some(disk) = Tmpfs::mount("64k") else {
        eprintln!("skipped: mounting a small disk is not allowed here");
        return;
    };
    let scene = Scene {
        views: vec![view("a.png", 100, 100, None)],
        ..Scene::default()
    };
    for name in ["cloud.ply", "cloud.glb"] {
        let path = disk.0.path().join(name);
        fs::write(&path, "old").unwrap();
        let error = export::write(&scene, &path, &ExportOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: No space left on device (os error 28)", path.display())
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
    let depth = disk.0.path().join("depth");
    let error = export::write_depth(&scene, OutputFolder::create(&depth).unwrap()).unwrap_err();
    assert!(
        error.to_string().starts_with(&depth.display().to_string()),
        "{error}"
    );
    assert!(!depth.exists());
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 2);
    let file = OutputFile::create(disk.0.path().join("small")).unwrap();
    file.write_with(|out| out.write_all(b"room again")).unwrap();
}
