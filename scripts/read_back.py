"""Reads what `mast3r align` writes by other programs' readers, and compares their answers with one another.

    python scripts/read_back.py --mast3r target/release/mast3r SCENE...

Each SCENE is a folder of stored predictions, as `mast3r align` takes. Everything is written into a temporary folder and
read by pycolmap, plyfile, laspy, evo, pyproj, OpenEXR and NumPy; with --gltf-validator, the folder in which `npm install gltf-validator`
was run, GLB files by Khronos' validator too, for which Node.js is needed. Exits with 1 if anything is not as it should
be.

    python scripts/read_back.py --refined MODEL...

Each MODEL is a folder that `mast3r reconstruct -o MODEL --format colmap` wrote, with or without --undistort.
COLMAP's bundle adjustment of all poses, focal lengths and distortion must leave its cameras where they are, and COLMAP's
triangulator must make the same points from its tracks.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import laspy
import numpy as np
import OpenEXR
import PIL.Image
import pycolmap
import pyproj
from evo.core import metrics, sync
from evo.tools import file_interface
from PIL.TiffImagePlugin import IFDRational
from plyfile import PlyData

# Mean reprojection error of a model, pixels at the network's size.
MOST_ERROR_PX = 2.0
# How far COLMAP's bundle adjustment may move a camera of a refined model, of the largest distance between two cameras.
MOST_MOVED = 0.001
# The share of a refined model's tracks that COLMAP's triangulator makes a point of at least.
LEAST_TRIANGULATED = 0.8
# Where georeferenced scenes are put, degrees and metres, and how many metres a unit of theirs becomes.
HOME, METRES = (46.5, 9.84, 1800.0), 50.0
# Two programs' answers for one number differ by rounding.
SAME = 1e-6

VALIDATE = """
const validator = require('gltf-validator');
validator.validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))
    .then((report) => console.log(JSON.stringify(report)));
"""


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def close(one, two, message, tolerance=SAME):
    gap = float(np.abs(np.asarray(one) - np.asarray(two)).max())
    check(gap <= tolerance, f"{message}: {gap} apart")


def write_all(mast3r, scene, out):
    """Everything that `mast3r align` can write of a scene."""
    line = [mast3r, "align", scene, "--quiet"]
    files = ["-o", "cloud.ply", "-o", "cloud.glb", "-o", "trajectory.txt", "--cameras", "cameras.json"]
    files += ["-o", "cloud.las", "-o", "cloud.laz"]
    subprocess.run([*line, *files, "--depth", "depth"], cwd=out, check=True)
    subprocess.run([*line, "-o", "normals.ply", "--normals"], cwd=out, check=True)
    subprocess.run([*line, "-o", "separate.txt", "--separate-cameras"], cwd=out, check=True)
    for name in ["colmap", "colmap-text", "colmap-database", "nerfstudio"]:
        subprocess.run([*line, "-o", name, "--format", name], cwd=out, check=True)
    sizes = {(image["width"], image["height"]) for image in json.loads((scene / "scene.json").read_text())["images"]}
    if len(sizes) == 1:
        subprocess.run([*line, "-o", "shared", "--format", "colmap", "--shared-focal"], cwd=out, check=True)


def read_colmap(out):
    """The binary model, the same as the text and as cameras.json; its error before and after COLMAP's adjustment."""
    model = pycolmap.Reconstruction(out / "colmap/sparse/0")
    text = pycolmap.Reconstruction(out / "colmap-text/sparse/0")
    cameras = json.loads((out / "cameras.json").read_text())["images"]
    placed = [camera for camera in cameras if camera["world_from_camera"] is not None]
    check(model.num_reg_images() == len(placed), f"{model.num_reg_images()} images of {len(placed)}")
    for camera in placed:
        image = model.find_image_with_name(camera["name"])
        check(image is not None, f"{camera['name']} is not in the model")
        check((out / "colmap/images" / image.name).is_file(), f"{image.name} is not there")
        camera_from_world = np.linalg.inv(camera["world_from_camera"])[:3]
        close(image.cam_from_world().matrix(), camera_from_world, f"{image.name}: pose")
        intrinsics = model.cameras[image.camera_id]
        check(intrinsics.model == pycolmap.CameraModelId.PINHOLE, f"{image.name}: {intrinsics.model}")
        check((intrinsics.width, intrinsics.height) == (camera["width"], camera["height"]), f"{image.name}: size")
        # cameras.json counts from the middle of the first pixel, COLMAP from its corner.
        expected = [camera["fx"], camera["fy"], camera["cx"] + 0.5, camera["cy"] + 0.5]
        close(intrinsics.params, expected, f"{image.name}: intrinsics")
        twin = text.images[image.image_id]
        close(twin.cam_from_world().matrix(), image.cam_from_world().matrix(), f"{image.name}: pose in the text")
        check(twin.num_points3D == image.num_points3D, f"{image.name}: observations in the text")
    check(text.num_points3D() == model.num_points3D(), "points in the text")
    for number, point in model.points3D.items():
        seen = [element.image_id for element in point.track.elements]
        check(len(seen) == len(set(seen)) >= 2, f"point {number} is seen by {seen}")
        close(text.points3D[number].xyz, point.xyz, f"point {number} in the text")
    stated = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    error = model.compute_mean_reprojection_error()
    close(stated, error, "the stated mean reprojection error")
    check(error < MOST_ERROR_PX, f"a mean reprojection error of {error} px")
    adjusted = adjust(out / "colmap/sparse/0")
    after = adjusted.compute_mean_reprojection_error()
    check(after <= error, f"COLMAP's adjustment takes {error} to {after} px")
    return model, error, after


def adjust(model):
    """The stored model after COLMAP's bundle adjustment of poses, focal lengths, distortion and points."""
    adjusted = pycolmap.Reconstruction(model)
    pycolmap.bundle_adjustment(adjusted, pycolmap.BundleAdjustmentOptions(print_summary=False))
    adjusted.update_point_3d_errors()
    return adjusted


def moved(model, adjusted):
    """The largest distance of a camera from where it was, after a similarity, of that of two cameras."""
    numbers = sorted(model.reg_image_ids())
    before, after = ([one.images[number].projection_center() for number in numbers] for one in (model, adjusted))
    before, after = np.array(before), np.array(after)
    to, start = before - before.mean(axis=0), after - after.mean(axis=0)
    left, stretch, right = np.linalg.svd(to.T @ start)
    signs = [1, 1, np.sign(np.linalg.det(left @ right))]
    turned = (start @ ((left * signs) @ right).T) * (stretch @ signs) / (start**2).sum()
    extent = np.linalg.norm(before[:, None] - before[None], axis=2).max()
    return np.linalg.norm(turned - to, axis=1).max() / extent


def triangulated(folder):
    """The share of a model's tracks whose observations COLMAP's triangulator makes one point of, all of them."""
    model = pycolmap.Reconstruction(folder / "sparse/0")
    track_of = {}
    matches = {}
    for number, point in model.points3D.items():
        seen = sorted((element.image_id, element.point2D_idx) for element in point.track.elements)
        track_of.update(dict.fromkeys(seen, number))
        for at, (second, to) in enumerate(seen):
            for first, start in seen[:at]:
                matches.setdefault((first, second), []).append((start, to))
    with tempfile.TemporaryDirectory() as out:
        path = pathlib.Path(out) / "database.db"
        database = pycolmap.Database.open(path)
        for camera in model.cameras.values():
            database.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            database.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            database.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            database.write_image(image, use_image_id=True)
            database.write_keypoints(image.image_id, np.array([seen.xy for seen in image.points2D], dtype=np.float32))
        for (first, second), pairs in matches.items():
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = np.array(pairs, dtype=np.uint32)
            database.write_two_view_geometry(first, second, geometry)
        database.close()
        options = pycolmap.IncrementalPipelineOptions()
        # Tracks of two images count as well, as in point_triangulator with --Mapper.tri_ignore_two_view_tracks 0.
        options.triangulation.ignore_two_view_tracks = False
        options.min_num_matches = 1
        found = pycolmap.triangulate_points(model, path, folder / "images", out, clear_points=True, options=options)
    lengths = collections.Counter(track_of.values())
    whole = set()
    for point in found.points3D.values():
        parts = collections.Counter(track_of[seen.image_id, seen.point2D_idx] for seen in point.track.elements)
        whole.update(number for number, length in parts.items() if length == lengths[number])
    return len(whole) / len(lengths)


def read_refined(folder):
    """A refined model, as COLMAP sees it."""
    model = pycolmap.Reconstruction(folder / "sparse/0")
    read_for_splats(folder.parent, model, folder.name)
    stated = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    error = model.compute_mean_reprojection_error()
    close(stated, error, "the stated mean reprojection error")
    adjusted = adjust(folder / "sparse/0")
    after, gap, share = adjusted.compute_mean_reprojection_error(), moved(model, adjusted), triangulated(folder)
    kinds = sorted({camera.model.name for camera in model.cameras.values()})
    print(
        f"{folder.name}: {model.num_reg_images()} images of {model.num_cameras()} cameras ({', '.join(kinds)}), "
        f"{model.num_points3D()} points, {error:.3f} px, {after:.3f} px after COLMAP's bundle adjustment, which moves "
        f"cameras by {100 * gap:.3f} % at most; {100 * share:.1f} % of the tracks are triangulated"
    )
    check(gap < MOST_MOVED, f"COLMAP's bundle adjustment moves a camera by {100 * gap:.3f} %")
    check(share >= LEAST_TRIANGULATED, f"COLMAP's triangulator makes points of {100 * share:.1f} % of the tracks")


def read_for_splats(out, model, name):
    """What gsplat's examples and brush ask of a COLMAP folder beyond COLMAP itself."""
    images = sorted(path.name for path in (out / name / "images").iterdir())
    check(images == sorted(image.name for image in model.images.values()), f"images/ holds {images}")
    # Brush passes over names without an extension, and takes small and capital letters for the same.
    check(all("." in image for image in images), f"an image without an extension in {images}")
    check(len({image.lower() for image in images}) == len(images), f"images differ in case alone: {images}")
    models = [path for path in (out / name).rglob("cameras.*")]
    check(len(models) == 1, f"{len(models)} models: {models}")
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        check(image_size(out / name / "images" / image.name) == (camera.width, camera.height), f"{image.name}: size")
        check(image.num_points3D > 0, f"{image.name} sees no point, and gsplat looks for some in each")


def image_size(path):
    image = pycolmap.Bitmap.read(str(path), True)
    check(image is not None, f"{path.name} cannot be read")
    return image.width, image.height


def check_transforms(transforms, folder):
    """What nerfstudio's parser asks of transforms.json."""
    # Of the whole file these would take the place of each frame's own.
    for key in ["fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "p1", "p2", "distortion_params"]:
        check(key not in transforms, f"{key} is given for all frames")
    check(transforms["camera_model"] == "OPENCV", transforms["camera_model"])
    applied = np.array(transforms["applied_transform"], dtype=float)
    check(applied.shape == (3, 4), f"an applied_transform of {applied.shape}")
    close(applied[:, :3] @ applied[:, :3].T, np.eye(3), "the applied_transform is no rotation")
    check(np.linalg.det(applied[:, :3]) > 0, "the applied_transform is a reflection")
    cloud = pathlib.Path(transforms["ply_file_path"])
    check(not cloud.is_absolute() and (folder / cloud).is_file(), f"{cloud} is not there")
    frames = transforms["frames"]
    paths = [pathlib.Path(frame["file_path"]) for frame in frames]
    # Smaller versions of images are sought by their names alone.
    check(len({path.name for path in paths}) == len(paths), f"equal names among {paths}")
    for path, frame in zip(paths, frames):
        check(not path.is_absolute() and (folder / path).is_file(), f"{path} is not there")
        check(frame.keys() == frames[0].keys(), f"{path} has other keys than the first frame")
        # Masks and depths are for every frame or none; ours have none.
        check("mask_path" not in frame and "depth_file_path" not in frame, f"{path} has a mask or a depth")
        check(image_size(folder / path) == (frame["w"], frame["h"]), f"{path}: {frame['w']}x{frame['h']}")
        check(all(frame[key] > 0 for key in ["fl_x", "fl_y", "cx", "cy"]), f"{path}: intrinsics")
        check(all(frame[key] == 0 for key in ["k1", "k2", "p1", "p2"]), f"{path}: distortion")
        pose = np.array(frame["transform_matrix"], dtype=float)
        check(pose.shape == (4, 4) and list(pose[3]) == [0, 0, 0, 1], f"{path}: a pose of {pose}")
        close(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), f"{path}: its pose is no rotation")
        check(np.linalg.det(pose[:3, :3]) > 0, f"{path}: its pose is a reflection")
    # Poses are scaled by the largest distance from their mean.
    centres = np.array([frame["transform_matrix"] for frame in frames])[:, :3, 3]
    check(np.abs(centres - centres.mean(axis=0)).max() > 0, "all cameras are in one place")
    return applied


def read_nerfstudio(out, model):
    """Every observation of the COLMAP model, through nerfstudio's cameras; and the cloud."""
    transforms = json.loads((out / "nerfstudio/transforms.json").read_text())
    applied = check_transforms(transforms, out / "nerfstudio")
    check(len(transforms["frames"]) == model.num_reg_images(), f"{len(transforms['frames'])} frames")
    for frame in transforms["frames"]:
        path = out / "nerfstudio" / frame["file_path"]
        check(path.is_file(), f"{path} is not there")
        image = model.find_image_with_name(path.name)
        points = np.array([model.points3D[seen.point3D_id].xyz for seen in image.points2D])
        points = points @ applied[:, :3].T + applied[:, 3]
        camera_from_world = np.linalg.inv(frame["transform_matrix"])
        x, y, z = (points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]).T
        # OpenGL's axes: y up, looking along -z.
        seen = np.stack([frame["cx"] - frame["fl_x"] * x / z, frame["cy"] + frame["fl_y"] * y / z], axis=1)
        expected = [image.project_point(model.points3D[seen.point3D_id].xyz) for seen in image.points2D]
        close(seen, expected, f"{path.name}: projections")
    seeds = read_ply(out / "nerfstudio" / transforms["ply_file_path"])
    cloud = read_ply(out / "cloud.ply") @ applied[:, :3].T
    taken = np.isin(as_keys(seeds), as_keys(cloud.astype(np.float32)))
    check(taken.all(), f"{(~taken).sum()} seeds are no points of the cloud")
    return len(seeds)


def read_ply(path):
    vertices = PlyData.read(path)["vertex"]
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    check(np.isfinite(points).all(), f"{path}: points that are not finite")
    check(vertices["red"].dtype == np.uint8, f"{path}: colours of {vertices['red'].dtype}")
    return points


def as_keys(points):
    # Adding zero makes a zero positive.
    return np.ascontiguousarray(points + np.float32(0)).view(np.dtype((np.void, 12))).ravel()


def read_shared(out, model):
    """Where all images can share a focal length: one camera for all."""
    if not (out / "shared").exists():
        return
    shared = pycolmap.Reconstruction(out / "shared/sparse/0")
    check(shared.num_cameras() == 1, f"{shared.num_cameras()} cameras share a focal length")
    check(shared.num_reg_images() == model.num_reg_images(), f"{shared.num_reg_images()} images share a focal length")
    check({image.camera_id for image in shared.images.values()} == {1}, "images of other cameras")


def read_trajectory(out, model):
    rows = np.loadtxt(out / "trajectory.txt", ndmin=2)
    cameras = json.loads((out / "cameras.json").read_text())["images"]
    check(rows.shape == (model.num_reg_images(), 8), f"a trajectory of {rows.shape}")
    for row in rows:
        image = model.find_image_with_name(cameras[int(row[0])]["name"])
        world_from_camera = image.cam_from_world().inverse()
        close(row[1:4], world_from_camera.translation, f"{image.name}: centre")
        turn = pycolmap.Rotation3d(row[4:])
        close(turn.matrix(), world_from_camera.rotation.matrix(), f"{image.name}: rotation")


def read_las(out):
    """LAS and LAZ against the PLY file."""
    vertices = PlyData.read(out / "cloud.ply")["vertex"]
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64)
    for name in ["cloud.las", "cloud.laz"]:
        cloud = laspy.read(out / name)
        check(len(cloud.points) == len(points), f"{name}: {len(cloud.points)} points")
        scale = cloud.header.scales.max()
        check(scale <= 1e-5 * np.ptp(points, axis=0).max(), f"{name}: a scale of {scale}")
        close(cloud.xyz, points, f"{name}: coordinates", 0.51 * scale + 1e-6 * np.abs(points).max())
        for channel in ["red", "green", "blue"]:
            check((cloud[channel] == vertices[channel].astype(np.uint16) * 257).all(), f"{name}: {channel}")
        check((cloud.return_number == 1).all() and (cloud.number_of_returns == 1).all(), f"{name}: returns")
        close(cloud.header.mins, cloud.xyz.min(axis=0), f"{name}: smallest coordinates")
        close(cloud.header.maxs, cloud.xyz.max(axis=0), f"{name}: largest coordinates")
        check(cloud.header.parse_crs() is None, f"{name} names a coordinate system")


def read_normals(out):
    vertices, plain = PlyData.read(out / "normals.ply")["vertex"], PlyData.read(out / "cloud.ply")["vertex"]
    normals = np.stack([vertices[axis] for axis in ["nx", "ny", "nz"]], axis=1)
    close(np.linalg.norm(normals, axis=1), 1, "lengths of normals", 1e-4)
    for name in ["x", "y", "z", "red", "green", "blue", "confidence"]:
        check((vertices[name] == plain[name]).all(), f"{name} with normals")


def read_database(out):
    """The database against the model beside it, and the points that COLMAP triangulates from it."""
    folder = out / "colmap-database"
    model = pycolmap.Reconstruction(folder / "sparse/0")
    database = pycolmap.Database.open(folder / "database.db")
    check(database.num_images() == model.num_reg_images(), f"{database.num_images()} images in the database")
    check(database.num_rigs() == model.num_cameras(), f"{database.num_rigs()} rigs in the database")
    check(database.num_frames() == model.num_reg_images(), f"{database.num_frames()} frames in the database")
    expected = collections.defaultdict(set)
    for point in model.points3D.values():
        seen = sorted((element.image_id, element.point2D_idx) for element in point.track.elements)
        for at, (second, to) in enumerate(seen):
            for first, start in seen[:at]:
                expected[first, second].add((start, to))
    check(database.num_verified_image_pairs() == len(expected), "pairs in the database")
    for number, image in model.images.items():
        stored, camera = database.read_image(number), database.read_camera(image.camera_id)
        check(stored.name == image.name and stored.camera_id == image.camera_id, f"{image.name} in the database")
        close(camera.params, model.cameras[image.camera_id].params, f"{image.name}: intrinsics in the database")
        places = np.array([seen.xy for seen in image.points2D])
        close(database.read_keypoints(number)[:, :2], places, f"{image.name}: keypoints", 1e-3)
    for (first, second), pairs in expected.items():
        check({tuple(pair) for pair in database.read_matches(first, second)} == pairs, f"matches of {first}, {second}")
        geometry = database.read_two_view_geometry(first, second)
        check({tuple(pair) for pair in geometry.inlier_matches} == pairs, f"inliers of {first}, {second}")
        one, two = model.images[first], model.images[second]
        relative = two.cam_from_world() * one.cam_from_world().inverse()
        close(geometry.cam2_from_cam1.rotation.matrix(), relative.rotation.matrix(), "a relative rotation")
        shift = relative.translation / np.linalg.norm(relative.translation)
        close(geometry.cam2_from_cam1.translation, shift, "a relative translation")
        # COLMAP's matrices for the same poses.
        essential = pycolmap.essential_matrix_from_pose(relative)
        essential *= np.sign((essential * geometry.E).sum()) * np.linalg.norm(geometry.E) / np.linalg.norm(essential)
        close(geometry.E, essential, "an essential matrix")
        for (start, to) in list(pairs)[:50]:
            lines = geometry.F @ [*one.points2D[start].xy, 1]
            gap = abs(lines @ [*two.points2D[to].xy, 1]) / np.hypot(*lines[:2])
            check(gap < 4 * MOST_ERROR_PX, f"a match {gap} px off its epipolar line")
    database.close()
    options = pycolmap.IncrementalPipelineOptions()
    options.triangulation.ignore_two_view_tracks = False
    options.min_num_matches = 1
    with tempfile.TemporaryDirectory() as place:
        found = pycolmap.triangulate_points(
            model, folder / "database.db", folder / "images", place, clear_points=True, options=options
        )
    share = found.num_points3D() / model.num_points3D()
    check(share >= LEAST_TRIANGULATED, f"COLMAP makes {100 * share:.0f} % of the points from the database")


def read_evaluation(out, mast3r):
    """The trajectory error of evaluate against evo's."""
    names = ["separate.txt", "trajectory.txt"]
    estimate, reference = (file_interface.read_tum_trajectory_file(str(out / name)) for name in names)
    reference, estimate = sync.associate_trajectories(reference, estimate)
    if reference.num_poses < 3:
        return
    line = [mast3r, "evaluate", *names, "--json"]
    found = json.loads(subprocess.run(line, cwd=out, check=True, capture_output=True).stdout)["trajectory"]
    if found is None or found["on_a_line"]:
        return
    estimate.align(reference, correct_scale=True)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, estimate))
    close(found["rmse"], ape.get_statistic(metrics.StatisticsType.rmse), "the trajectory error", 1e-8)


def fraction(value):
    return IFDRational(round(value * 10**6), 10**6)


def parts(angle):
    """Degrees, minutes and seconds, as EXIF has them."""
    return IFDRational(int(angle), 1), IFDRational(int(angle * 60 % 60), 1), fraction(angle * 3600 % 60)


def read_georeferenced(out, mast3r, scene):
    """A scene whose images have GPS positions, by pyproj."""
    cameras = json.loads((out / "cameras.json").read_text())["images"]
    placed = [camera for camera in cameras if camera["world_from_camera"] is not None]
    if len(placed) < 3:
        return
    geodetic = pyproj.CRS.from_epsg(4979)
    local = lambda at: pyproj.Transformer.from_pipeline(
        f"+proj=pipeline +step +proj=cart +ellps=WGS84 +step +proj=topocentric +ellps=WGS84 +lat_0={at[0]} "
        f"+lon_0={at[1]} +h_0={at[2]}"
    )
    home = local(HOME)
    (out / "photos").mkdir()
    for camera in cameras:
        picture = PIL.Image.open(out / "colmap/images" / camera["name"])
        exif = PIL.Image.Exif()
        if camera["world_from_camera"] is not None:
            x, y, z = METRES * np.array(camera["world_from_camera"])[:3, 3]
            longitude, latitude, height = home.transform(x, z, -y, direction="INVERSE")
            gps = {1: "N", 2: parts(latitude), 3: "E", 4: parts(longitude), 5: b"\0", 6: fraction(height)}
            exif[0x8825] = gps
        picture.save(out / "photos" / camera["name"], exif=exif)
    line = [mast3r, "align", scene, "--quiet", "--images", "photos", "--no-refine", "--georeference"]
    subprocess.run([*line, "-o", "geo.ply", "-o", "geo.laz", "--cameras", "geo.json"], cwd=out, check=True)
    found = json.loads((out / "geo.json").read_text())
    origin = found["georeference"]
    frame = local((origin["latitude"], origin["longitude"], origin["altitude"]))
    for camera, before in zip(found["images"], cameras):
        if before["world_from_camera"] is None:
            continue
        x, y, z = METRES * np.array(before["world_from_camera"])[:3, 3]
        expected = frame.transform(*home.transform(x, z, -y, direction="INVERSE"))
        close(np.array(camera["world_from_camera"])[:3, 3], expected, f"{camera['name']}: place", 0.3)
    cloud = laspy.read(out / "geo.laz")
    system = cloud.header.parse_crs()
    check(system is not None and system.to_epsg() == 32632, f"geo.laz is in {system}")
    back = pyproj.Transformer.from_crs(system, geodetic, always_xy=True)
    longitude, latitude = back.transform(cloud.x, cloud.y)
    points = np.stack(frame.transform(longitude, latitude, cloud.z), axis=1)
    close(points, read_ply(out / "geo.ply"), "georeferenced points", 0.01)


def read_depths(out):
    images = sorted((out / "depth").glob("*.exr"))
    check(images, "no depth maps")
    for path in images:
        with OpenEXR.File(str(path)) as file:
            channels = file.channels()
            check(sorted(channels) == ["Z", "confidence"], f"{path.name}: channels {sorted(channels)}")
            for channel, name in [("Z", path.stem), ("confidence", path.stem.removesuffix(".depth") + ".confidence")]:
                pixels = channels[channel].pixels
                check(pixels.dtype == np.float32, f"{path.name}: {pixels.dtype}")
                np.testing.assert_array_equal(pixels, np.load(path.with_name(f"{name}.npy")), path.name)
    return len(images)


def validate_glb(path, modules):
    run = subprocess.run(["node", "-e", VALIDATE, str(path.resolve())], cwd=modules, check=True, capture_output=True)
    report = json.loads(run.stdout)
    issues = report["issues"]
    check(issues["numErrors"] == issues["numWarnings"] == 0, f"{path.name}: {issues['messages']}")
    return report["info"]["totalVertexCount"]


def read_scene(scene, args):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        write_all(args.mast3r.resolve(), scene.resolve(), out)
        model, error, after = read_colmap(out)
        for name in ["colmap", "colmap-text", "colmap-database"]:
            read_for_splats(out, model, name)
        read_shared(out, model)
        seeds = read_nerfstudio(out, model)
        read_trajectory(out, model)
        depths = read_depths(out)
        read_las(out)
        read_normals(out)
        read_database(out)
        read_evaluation(out, args.mast3r.resolve())
        read_georeferenced(out, args.mast3r.resolve(), scene.resolve())
        line = (
            f"{scene.name}: {model.num_reg_images()} images, {model.num_points3D()} points, {error:.3f} px, "
            f"{after:.3f} px after COLMAP's bundle adjustment, {seeds} seeds, {depths} depth maps"
        )
        if args.gltf_validator:
            line += f", GLB of {validate_glb(out / 'cloud.glb', args.gltf_validator)} vertices is valid"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", type=pathlib.Path, metavar="SCENE")
    parser.add_argument("--refined", nargs="+", type=pathlib.Path, default=[], metavar="MODEL", help="refined models")
    program = pathlib.Path("target/release/mast3r")
    parser.add_argument("--mast3r", type=pathlib.Path, default=program, help="the program")
    parser.add_argument("--gltf-validator", type=pathlib.Path, metavar="FOLDER", help="where npm installed it")
    args = parser.parse_args()
    if not args.scenes and not args.refined:
        parser.error("name a SCENE, or a MODEL after --refined")
    failures = 0
    for path in [*args.scenes, *args.refined]:
        try:
            read_scene(path, args) if path in args.scenes else read_refined(path.resolve())
        except (AssertionError, subprocess.CalledProcessError) as error:
            failures += 1
            print(f"{path.name}: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
