//! Reports on views and pairs.

use super::assembly::Agreement;
use super::pair_fit::PairFit;
use super::{PairReport, Verdict, ViewReport};

pub(super) fn pair_reports(
    fits: &[PairFit],
    verdicts: &[Verdict],
    used: &[usize],
    agreements: &[Agreement],
) -> Vec<PairReport> {
    let report = |(index, fit): (usize, &PairFit)| {
        let agreement = used
            .binary_search(&index)
            .ok()
            .map(|place| &agreements[place]);
        let verdict = match verdicts[index] {
            Verdict::Used if agreement.is_none() => Verdict::Disconnected,
            verdict => verdict,
        };
        let inlier_share = agreement.map_or(fit.inlier_share, Agreement::share);
        PairReport {
            pair: fit.pair,
            matches: fit.matches.len(),
            verdict,
            inlier_share,
        }
    };
    fits.iter().enumerate().map(report).collect()
}

pub(super) fn view_reports(
    views: usize,
    placed: &[usize],
    agreements: &[Agreement],
) -> Vec<ViewReport> {
    let mut reports = vec![
        ViewReport {
            placed: false,
            inlier_share: 0.0,
            reprojection_px: None,
            overruled_focal: None
        };
        views
    ];
    for (&view, agreement) in placed.iter().zip(agreements) {
        let (inlier_share, reprojection_px) = (agreement.share(), agreement.median_px);
        reports[view] = ViewReport {
            placed: true,
            inlier_share,
            reprojection_px,
            overruled_focal: None,
        };
    }
    reports
}
