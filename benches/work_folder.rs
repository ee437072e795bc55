//! The files of pairs in a work folder: reading, packing and writing them, without a network.
//!
//! `cargo bench --bench work_folder -- WORK 1 2 4` takes the pairs of a work folder, 64 at most, with
//! so many threads that each take the next pair, as `mast3r run` has them finish pairs. What is
//! packed is compared with the files, and written to a temporary folder (`TMPDIR`), each file on the
//! disk before the next.

// A panic is how a measurement fails.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use mast3r::alignment::{Pair, PairEvidence};
use mast3r::files::OutputFile;

const MOST_PAIRS: usize = 64;
const PAIR: Pair = Pair {
    first: 0,
    second: 1,
};

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let [work, threads @ ..] = &words[..] else {
        println!("no work folder given; nothing is measured");
        return;
    };
    let threads: Vec<usize> = threads.iter().map(|word| word.parse().unwrap()).collect();
    let files = fs::read_dir(PathBuf::from(work).join("pairs")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.truncate(MOST_PAIRS);
    let contents: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let bytes: usize = contents.iter().map(Vec::len).sum();
    println!(
        "{} pairs of {:.2} MB, milliseconds of a pair:",
        files.len(),
        bytes as f64 / 1e6 / files.len() as f64
    );
    let evidence: Vec<PairEvidence> = files
        .iter()
        .map(|file| PairEvidence::read(PAIR, file, false).unwrap())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    for threads in threads {
        let time = |work: &(dyn Fn(usize) + Sync)| {
            let started = Instant::now();
            in_threads(threads, files.len(), work);
            1e3 * started.elapsed().as_secs_f64() / files.len() as f64
        };
        let read = time(&|at| {
            PairEvidence::read(PAIR, &files[at], false).unwrap();
        });
        let pack = time(&|at| assert!(evidence[at].to_safetensors().unwrap() == contents[at]));
        let write = time(&|at| {
            let path = folder.path().join(format!("{threads}-{at}"));
            let file = OutputFile::create(path).unwrap();
            file.write_with(|out| out.write_all(&contents[at])).unwrap();
        });
        println!("{threads} threads: read {read:.2}, pack {pack:.2}, write {write:.2}");
    }
}

/// Does so many pieces of work, of which each thread takes the next.
fn in_threads(threads: usize, pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let piece = next.fetch_add(1, Ordering::Relaxed);
                    if piece >= pieces {
                        break;
                    }
                    work(piece);
                }
            });
        }
    });
}
