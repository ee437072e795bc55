//! Positions on the Earth: WGS84 coordinates, local frames and UTM.

use nalgebra::{Matrix3, Vector3};
use serde::{Deserialize, Serialize};

/// WGS84's semi-major axis, metres, and flattening.
const A: f64 = 6_378_137.0;
const F: f64 = 1.0 / 298.257_223_563;
/// The square of the first eccentricity.
const E2: f64 = F * (2.0 - F);
/// UTM's scale on the central meridian, its false easting and false northing in the south, metres.
const UTM_SCALE: f64 = 0.9996;
const UTM_EAST: f64 = 500_000.0;
const UTM_SOUTH: f64 = 10_000_000.0;
/// The latitudes between which UTM is defined, degrees.
const UTM_LATITUDES: [f64; 2] = [-80.0, 84.0];

/// A position on WGS84.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Geodetic {
    /// Degrees, north positive.
    pub latitude: f64,
    /// Degrees, east positive.
    pub longitude: f64,
    /// Metres above the ellipsoid, or above what the source of the position counts from.
    pub altitude: f64,
}

impl Geodetic {
    /// Earth-centred, Earth-fixed coordinates, metres:
    /// `((N + h) cos φ cos λ, (N + h) cos φ sin λ, (N (1 - e²) + h) sin φ)`,
    /// `N = a / sqrt(1 - e² sin² φ)`.
    pub fn to_ecef(self) -> Vector3<f64> {
        let (sin, cos) = self.latitude.to_radians().sin_cos();
        let (sin_l, cos_l) = self.longitude.to_radians().sin_cos();
        let n = A / (1.0 - E2 * sin * sin).sqrt();
        Vector3::new(
            (n + self.altitude) * cos * cos_l,
            (n + self.altitude) * cos * sin_l,
            (n * (1.0 - E2) + self.altitude) * sin,
        )
    }

    /// The inverse of [`Self::to_ecef`], by the fixed-point iteration
    /// `tan φ = (z + e² N sin φ) / p`, which gains two digits a round.
    pub fn of_ecef(ecef: Vector3<f64>) -> Self {
        const ROUNDS: usize = 10;
        let [x, y, z] = ecef.into();
        let p = x.hypot(y);
        let mut latitude = z.atan2(p * (1.0 - E2));
        for _ in 0..ROUNDS {
            let sin = latitude.sin();
            let n = A / (1.0 - E2 * sin * sin).sqrt();
            latitude = (z + E2 * n * sin).atan2(p);
        }
        let (sin, cos) = latitude.sin_cos();
        Self {
            latitude: latitude.to_degrees(),
            longitude: y.atan2(x).to_degrees(),
            altitude: p * cos + z * sin - A * (1.0 - E2 * sin * sin).sqrt(),
        }
    }
}

/// A local frame of metres: x east, y north, z up, at an origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalFrame {
    origin: Geodetic,
    ecef: Vector3<f64>,
    /// Rows are the directions of the axes.
    local_from_ecef: Matrix3<f64>,
}

impl LocalFrame {
    /// The frame at `origin`, whose up direction is the ellipsoid's normal there.
    pub fn new(origin: Geodetic) -> Self {
        let (sin, cos) = origin.latitude.to_radians().sin_cos();
        let (sin_l, cos_l) = origin.longitude.to_radians().sin_cos();
        Self {
            origin,
            ecef: origin.to_ecef(),
            local_from_ecef: Matrix3::new(
                -sin_l,
                cos_l,
                0.0,
                -sin * cos_l,
                -sin * sin_l,
                cos,
                cos * cos_l,
                cos * sin_l,
                sin,
            ),
        }
    }

    /// Where the axes meet.
    pub fn origin(&self) -> Geodetic {
        self.origin
    }

    /// East, north and up of a position.
    pub fn local(&self, position: Geodetic) -> Vector3<f64> {
        self.local_from_ecef * (position.to_ecef() - self.ecef)
    }

    /// The position at these coordinates east, north and up.
    pub fn geodetic(&self, local: Vector3<f64>) -> Geodetic {
        Geodetic::of_ecef(self.ecef + self.local_from_ecef.transpose() * local)
    }
}

/// A zone of the Universal Transverse Mercator projection on WGS84.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utm {
    /// 1 to 60.
    pub zone: u8,
    /// Whether northings count from the equator to the north.
    pub north: bool,
}

impl Utm {
    /// The zone of six degrees of longitude that a position is in, without the exceptions of Norway
    /// and Svalbard; `None` near the poles, where UTM is not defined.
    pub fn of(position: Geodetic) -> Option<Self> {
        let [south, north] = UTM_LATITUDES;
        if !(south..=north).contains(&position.latitude) {
            return None;
        }
        let zone = ((position.longitude + 180.0).rem_euclid(360.0) / 6.0).floor();
        Some(Self {
            zone: (zone as u8).min(59) + 1,
            north: position.latitude >= 0.0,
        })
    }

    /// The EPSG code of the coordinate system: 326zz in the north, 327zz in the south.
    pub fn epsg(self) -> u16 {
        (if self.north { 32_600 } else { 32_700 }) + u16::from(self.zone)
    }

    /// Easting and northing of a position, metres: Krüger's series in the third flattening n to
    /// its fourth order (Karney 2011, "Transverse Mercator with an accuracy of a few nanometers",
    /// equations 7 to 12 and 35), which is exact to some 0.1 mm within the zone and beside it.
    pub fn project(self, position: Geodetic) -> [f64; 2] {
        let n = F / (2.0 - F);
        let (n2, n3, n4) = (n * n, n * n * n, n * n * n * n);
        let alpha = [
            n / 2.0 - 2.0 * n2 / 3.0 + 5.0 * n3 / 16.0 + 41.0 * n4 / 180.0,
            13.0 * n2 / 48.0 - 3.0 * n3 / 5.0 + 557.0 * n4 / 1440.0,
            61.0 * n3 / 240.0 - 103.0 * n4 / 140.0,
            49_561.0 * n4 / 161_280.0,
        ];
        let radius = A / (1.0 + n) * (1.0 + n2 / 4.0 + n4 / 64.0);
        let central = 6.0 * f64::from(self.zone) - 183.0;
        let sin = position.latitude.to_radians().sin();
        let (sin_l, cos_l) = (position.longitude - central).to_radians().sin_cos();
        let e = E2.sqrt();
        let t = (sin.atanh() - e * (e * sin).atanh()).sinh();
        let (xi, eta) = (t.atan2(cos_l), (sin_l / t.hypot(cos_l)).asinh());
        let (mut x, mut y) = (eta, xi);
        for (j, alpha) in (1..).zip(alpha) {
            let j = 2.0 * f64::from(j);
            x += alpha * (j * xi).cos() * (j * eta).sinh();
            y += alpha * (j * xi).sin() * (j * eta).cosh();
        }
        let south = if self.north { 0.0 } else { UTM_SOUTH };
        [
            UTM_EAST + UTM_SCALE * radius * x,
            south + UTM_SCALE * radius * y,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(latitude: f64, longitude: f64, altitude: f64) -> Geodetic {
        Geodetic {
            latitude,
            longitude,
            altitude,
        }
    }

    #[test]
    fn ecef_and_utm_are_those_of_proj() {
        // pyproj 3.7.2, EPSG:4979 to EPSG:4978 and to EPSG:326zz and 327zz.
        for (position, ecef, epsg, utm) in PROJ {
            let gap = position.to_ecef() - Vector3::from(ecef);
            assert!(gap.norm() < 1e-6, "{position:?}: {gap}");
            let zone = Utm::of(position).unwrap();
            assert_eq!(zone.epsg(), epsg);
            let found = zone.project(position);
            let gap = (found[0] - utm[0]).hypot(found[1] - utm[1]);
            assert!(gap < 1e-4, "{position:?}: {found:?}, {gap}");
        }
    }

    #[test]
    fn positions_survive_the_way_to_ecef_and_back() {
        for latitude in [-90.0, -89.999, -45.0, 0.0, 1e-7, 48.3, 90.0] {
            for altitude in [-400.0, 0.0, 8848.0, 400_000.0] {
                let start = at(latitude, 17.5, altitude);
                let found = Geodetic::of_ecef(start.to_ecef());
                assert!((found.latitude - latitude).abs() < 1e-11, "{found:?}");
                assert!((found.altitude - altitude).abs() < 1e-7, "{found:?}");
            }
        }
    }

    #[test]
    fn local_axes_point_east_north_and_up() {
        let origin = at(48.0, 11.0, 500.0);
        let frame = LocalFrame::new(origin);
        let [east, north, up] = [
            frame.local(at(48.0, 11.0001, 500.0)),
            frame.local(at(48.0001, 11.0, 500.0)),
            frame.local(at(48.0, 11.0, 510.0)),
        ];
        assert!(
            (east.x - 7.46).abs() < 0.01 && east.yz().norm() < 1e-3,
            "{east}"
        );
        assert!(
            (north.y - 11.12).abs() < 0.01 && north.xz().norm() < 1e-3,
            "{north}"
        );
        assert!((up - Vector3::new(0.0, 0.0, 10.0)).norm() < 1e-6, "{up}");
        let back = frame.geodetic(Vector3::new(120.0, -80.0, 15.0));
        let again = frame.local(back);
        assert!((again - Vector3::new(120.0, -80.0, 15.0)).norm() < 1e-6);
    }

    #[test]
    fn the_poles_have_no_zone() {
        assert_eq!(Utm::of(at(84.5, 0.0, 0.0)), None);
        assert_eq!(Utm::of(at(-80.5, 0.0, 0.0)), None);
        assert_eq!(Utm::of(at(10.0, 180.0, 0.0)).map(|utm| utm.zone), Some(1));
    }

    /// Position, ECEF, EPSG code of the UTM zone, easting and northing.
    const PROJ: [(Geodetic, [f64; 3], u16, [f64; 2]); 6] = [
        (
            at(48.85837, 2.294481, 35.0),
            [4200961.393486, 168322.731569, 4780237.205332],
            32631,
            [448250.576820, 5411951.588030],
        ),
        (
            at(-33.856784, 151.215297, 12.5),
            [-4646978.467997, 2553082.637957, -3533272.617694],
            32756,
            [334900.261292, 6252290.522406],
        ),
        (
            at(64.1466, -21.9426, 0.0),
            [2586853.906092, -1042143.440915, 5716860.323619],
            32627,
            [454138.376516, 7113689.868974],
        ),
        (
            at(0.0001, -78.4678, 2850.0),
            [1275678.094137, -6252170.862523, 11.062402],
            32617,
            [781862.851687, 11.063881],
        ),
        (
            at(-54.8019, -68.303, 30.0),
            [1362209.437672, -3423602.941465, -5188727.850886],
            32719,
            [544805.097451, 3927029.884699],
        ),
        (
            at(35.3606, 138.7274, 3776.0),
            [-3916073.259313, 3437037.683922, 3672751.026283],
            32654,
            [293517.347019, 3915404.016934],
        ),
    ];
}
