//! Choices of a few points whose answer is known.

use super::super::tests::scene;
use super::*;
use crate::views::Mask;

/// Of one row of pixels with these levels.
fn mask(levels: &[u8]) -> Mask {
    let row = image::RgbImage::from_fn(levels.len() as u32, 1, |x, _| {
        image::Rgb([levels[x as usize]; 3])
    });
    Mask::of_levels(&row, 128)
}

fn at_least(confidence: f32) -> PointFilter {
    PointFilter {
        min_confidence: Some(confidence),
        ..PointFilter::default()
    }
}

fn percent(percent: f32) -> PointFilter {
    PointFilter {
        keep_percentile: Some(percent),
        ..PointFilter::default()
    }
}

fn thinned(voxel: Option<f64>, most: Option<usize>) -> PointFilter {
    PointFilter {
        thinning: Thinning { voxel, most },
        ..PointFilter::default()
    }
}

fn kept(scene: &Scene, filter: PointFilter) -> Vec<f32> {
    let selection = scene.select(&filter).unwrap();
    let kept: Vec<f32> = selection.iter().map(|point| point.confidence).collect();
    let counts = selection.counts();
    assert_eq!(counts.kept, kept.len());
    let views = selection.masks().flat_map(|(view, mask)| {
        assert_eq!(mask.len(), view.points.confidence.len());
        view.points
            .confidence
            .iter()
            .copied()
            .zip(mask)
            .filter(|(_, kept)| *kept)
            .map(|(confidence, _)| confidence)
    });
    assert_eq!(views.collect::<Vec<f32>>(), kept, "by the masks");
    let rules = counts.below_min_confidence + counts.below_percentile;
    let dropped = counts.masked + counts.not_finite + counts.contradicted + rules + counts.thinned;
    assert_eq!(counts.total, counts.kept + dropped);
    kept
}

#[test]
fn no_rule_keeps_every_finite_point_with_its_colour() {
    let mut scene = scene(&[&[1.0, 2.0, f32::NAN], &[f32::INFINITY, 3.0]]);
    scene.views[0].points.points[0][1] = f32::INFINITY;
    let selection = scene.select(&PointFilter::default()).unwrap();
    let points: Vec<ScenePoint> = selection.iter().collect();
    assert_eq!(
        points,
        [
            ScenePoint {
                position: [1.0, 0.0, 1.0],
                rgb: [1, 0, 255],
                confidence: 2.0
            },
            ScenePoint {
                position: [1.0, 0.0, 1.0],
                rgb: [1, 0, 255],
                confidence: 3.0
            },
        ]
    );
    assert_eq!(
        selection.counts(),
        PointCounts {
            total: 5,
            not_finite: 3,
            kept: 2,
            ..PointCounts::default()
        }
    );
}

#[test]
fn the_minimum_is_inclusive() {
    let scene = scene(&[&[1.0, 2.0, 3.0]]);
    assert_eq!(kept(&scene, at_least(2.0)), [2.0, 3.0]);
}

#[test]
fn the_percentile_counts_over_all_views_together_and_keeps_ties() {
    let scene = scene(&[&[1.0, 5.0, 2.0, f32::NAN], &[6.0, 7.0, 8.0], &[5.0, 1.5]]);
    assert_eq!(kept(&scene, percent(25.0)), [7.0, 8.0]);
    assert_eq!(kept(&scene, percent(50.0)), [5.0, 6.0, 7.0, 8.0, 5.0]);
    assert_eq!(kept(&scene, percent(0.001)), [8.0]);
    assert_eq!(kept(&scene, percent(100.0)).len(), 8);
}

#[test]
fn both_rules_apply_and_each_point_counts_once() {
    let scene = scene(&[&[1.0, 2.0, 3.0, 4.0, f32::NAN]]);
    let filter = PointFilter {
        min_confidence: Some(2.0),
        keep_percentile: Some(50.0),
        ..PointFilter::default()
    };
    assert_eq!(kept(&scene, filter), [3.0, 4.0]);
    let counts = scene.select(&filter).unwrap().counts();
    assert_eq!(
        counts,
        PointCounts {
            total: 5,
            not_finite: 1,
            below_min_confidence: 1,
            below_percentile: 1,
            kept: 2,
            ..PointCounts::default()
        }
    );
}

#[test]
fn contradicted_points_go_first_and_do_not_move_the_percentile() {
    let mut scene = scene(&[&[1.0, 2.0, 3.0, 4.0, f32::NAN], &[5.0]]);
    scene.views[0].contradicted = Some(vec![true, false, false, true, true]);
    assert_eq!(kept(&scene, PointFilter::default()), [2.0, 3.0, 5.0]);
    let filter = PointFilter {
        min_confidence: Some(1.5),
        keep_percentile: Some(60.0),
        ..PointFilter::default()
    };
    assert_eq!(kept(&scene, filter), [3.0, 5.0]);
    let counts = scene.select(&filter).unwrap().counts();
    let expected = PointCounts {
        total: 6,
        masked: 0,
        not_finite: 1,
        contradicted: 2,
        below_min_confidence: 0,
        below_percentile: 1,
        thinned: 0,
        kept: 2,
    };
    assert_eq!(counts, expected);
}

#[test]
fn one_point_a_voxel_stays_the_most_confident() {
    // Two views with points at x = 0, 1, 2, ...: three to a cube of side 3 in each.
    let scene = scene(&[&[1.0, 5.0, 5.0, 2.0, 2.5, f32::NAN], &[6.0, 7.0, 1.0, 2.0]]);
    assert_eq!(kept(&scene, thinned(Some(3.0), None)), [2.5, 7.0]);
    assert_eq!(kept(&scene, thinned(Some(0.5), None)).len(), 5);
    let confident = PointFilter {
        min_confidence: Some(2.0),
        ..thinned(Some(9.0), None)
    };
    assert_eq!(kept(&scene, confident), [7.0]);
    let counts = scene.select(&confident).unwrap().counts();
    assert_eq!(
        (counts.below_min_confidence, counts.thinned, counts.kept),
        (2, 6, 1)
    );
}

#[test]
fn of_too_many_points_an_even_choice_stays() {
    let scene = scene(&[&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]]);
    let most = |most| thinned(None, Some(most));
    assert_eq!(kept(&scene, most(4)), [2.0, 4.0, 6.0, 8.0]);
    assert_eq!(kept(&scene, most(3)), [3.0, 6.0, 8.0]);
    assert_eq!(kept(&scene, most(1)), [8.0]);
    assert_eq!(kept(&scene, most(8)).len(), 8);
    assert_eq!(kept(&scene, thinned(Some(2.0), Some(1))), [8.0]);
}

#[test]
fn an_empty_choice_says_what_to_change() {
    let message = |scene: &Scene, filter| scene.select(&filter).unwrap_err().to_string();
    assert_eq!(
        message(&scene(&[&[1.0, 12.25]]), at_least(50.0)),
        "a minimum confidence of 50 keeps none of 2 points: the most confident one has 12.250; lower the minimum"
    );
    assert_eq!(
        message(&Scene::default(), PointFilter::default()),
        "the scene has no points to write"
    );
    let error = scene(&[&[f32::NAN, f32::NAN]])
        .select(&PointFilter::default())
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotFinite {
                count: 2,
                total: 2,
                ..
            }
        ),
        "{error}"
    );

    let mut marked = scene(&[&[1.0, 12.25]]);
    marked.views[0].contradicted = Some(vec![false, true]);
    assert_eq!(
        message(&marked, at_least(2.0)),
        "a minimum confidence of 2 keeps none of 1 points: the most confident one has 1.000; lower the minimum"
    );
    assert_eq!(
        message(&marked, percent(50.0)),
        "other views contradict all of the most confident 50 percent of 2 points; keep more of them"
    );
    marked.views[0].contradicted = Some(vec![true, true]);
    assert_eq!(
        message(&marked, PointFilter::default()),
        "other views contradict all of 2 points; allow a larger reprojection error"
    );
    let mut hidden = scene(&[&[1.0, 2.0]]);
    hidden.leave_out_masked([Some(&mask(&[0, 0]))]);
    assert_eq!(
        message(&hidden, PointFilter::default()),
        "the masks leave none of 2 points; make white in them what is to be kept"
    );
}

#[test]
fn what_a_mask_leaves_out_is_counted_apart() {
    let mut scene = scene(&[&[1.0, f32::NAN, 2.0, f32::NAN], &[3.0]]);
    let mask = mask(&[0, 0, 255, 255]);
    scene.leave_out_masked([Some(&mask), None]);
    scene.leave_out_masked([Some(&mask), None]);
    assert_eq!(kept(&scene, PointFilter::default()), [2.0, 3.0]);
    let counts = scene.select(&PointFilter::default()).unwrap().counts();
    assert_eq!(
        counts,
        PointCounts {
            total: 5,
            masked: 2,
            not_finite: 1,
            kept: 2,
            ..PointCounts::default()
        }
    );
}

#[test]
fn a_filter_out_of_range_is_refused() {
    let scene = scene(&[&[1.0]]);
    for filter in [
        percent(0.0),
        percent(-1.0),
        percent(100.5),
        percent(f32::NAN),
        at_least(f32::NAN),
        thinned(Some(0.0), None),
        thinned(Some(f64::INFINITY), None),
        thinned(None, Some(0)),
    ] {
        let refusal = scene.select(&filter);
        assert!(matches!(refusal, Err(Error::Usage(_))), "{filter:?}");
    }
}
