"""VideoInferencer: tracks through videos of every kind, online and whole, their pictures and files."""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import videomt.inferencer  # noqa: F401  it registers
from inferencer_models import saved_video_model, small_config, video_config
from input_files import write_cut_video
from mmdet.structures import DetDataSample
from pycocotools import mask as mask_api
from videomt.inferencer import TrackColours, VideoInferencer
from videomt.sequences import as_videos

from eomt_mm.apis import EoMTInferencer, init_inferencer, load_config
from eomt_mm.apis.inputs import ImageInput, find_sources
from eomt_mm.visualization import shade
from eomt_mm.web.results import load_models

T, SIZE, QUERIES = 4, (40, 64), 6
TASKS = ('instance', 'panoptic', 'semantic')
FIELDS = dict(instance='pred_track_instances', panoptic='pred_panoptic_seg', semantic='pred_sem_seg')
Make = Callable[[str], VideoInferencer]


@pytest.fixture(scope='module')
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Inferencers of small models, each built once."""
    folder = tmp_path_factory.mktemp('models')
    return cache(
        lambda task: init_inferencer(*saved_video_model(task, folder / task), device='cpu', show_progress=False)
    )


def video(seed: int = 0, length: int = T, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(length)]


def write_frames(folder: Path, frames: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for k, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{k}.png'), frame)
    return folder


def differing(one: DetDataSample, other: DetDataSample, task: str) -> float:
    """Share of pixels that differ; 1 where the tracks do."""
    found, expected = one.get(FIELDS[task]), other.get(FIELDS[task])
    if task != 'instance':
        return float((found.sem_seg != expected.sem_seg).float().mean())
    if found.instances_id.tolist() != expected.instances_id.tolist():
        return 1.0
    masks = torch.from_numpy(mask_api.decode(expected.masks)).permute(2, 0, 1).bool()
    return float((found.masks != masks).float().mean())


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('whole', [False, True])
def test_agrees_with_the_models_own_test_step(task: str, whole: bool, make: Make) -> None:
    inferencer, frames = make(task), video()
    found = inferencer(frames, whole_video=whole, return_datasamples=True)['predictions']
    (given,) = as_videos(find_sources(frames))
    expected: list[DetDataSample] = []
    for _, data in inferencer.preprocess(given.frames(), T if whole else 1):
        for sample in data['data_samples'][0].video_data_samples:
            sample.set_metainfo(dict(video_length=T))
        expected += inferencer.model.test_step(data)[0].video_data_samples
    assert len(found) == len(expected) == T
    for one, other in zip(found, expected, strict=True):
        assert one.class_scores == other.class_scores == f'mean of {"all frames" if whole else "the frames so far"}'
        assert one.frame_id == other.frame_id and one.ori_shape == SIZE
        assert differing(one, other, task) < 0.005


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('whole', [False, True])
def test_windows_change_nothing(task: str, whole: bool, make: Make) -> None:
    one_by_one, windows = (
        make(task)(video(), whole_video=whole, batch_size=size, pred_score_thr=None)['predictions'] for size in (1, 3)
    )
    for one, other in zip(one_by_one, windows, strict=True):
        assert (one['segmentation'] != other['segmentation']).mean() < 0.005
        assert [s['id'] for s in one['segments_info']] == [s['id'] for s in other['segments_info']]


def test_every_video_starts_anew(make: Make, tmp_path: Path) -> None:
    folders = [write_frames(tmp_path / name, video(seed)) for seed, name in enumerate('ab')]
    together = make('instance')(folders, batch_size=3)['predictions']
    apart = [found for folder in folders for found in make('instance')(folder, batch_size=3)['predictions']]
    joined = make('instance')([*video(0), *video(1)], batch_size=3)['predictions']
    assert [str(found['segments_info']) for found in together] == [str(found['segments_info']) for found in apart]
    assert str(joined[T]['segments_info']) != str(apart[T]['segments_info'])


@pytest.mark.parametrize('task', TASKS)
def test_prediction_fits_its_segments(task: str, make: Make) -> None:
    for found in make(task)(video())['predictions']:
        segmentation, info = found['segmentation'], found['segments_info']
        assert segmentation.shape == SIZE and segmentation.dtype == np.int32
        assert found['class_scores'] == 'mean of the frames so far'
        assert info and json.dumps(info)
        ids = [segment['id'] for segment in info]
        assert len(set(ids)) == len(ids)  # one label per query
        assert set(np.unique(segmentation)) - {0} <= set(ids)
        for segment in info:
            own = segmentation == segment['id']
            whole = mask_api.decode(segment['mask']).astype(bool) if task == 'instance' else own
            assert segment['area'] == whole.sum() > 0 and not (own & ~whole).any()
            if task == 'semantic':
                assert segment['id'] == segment['label_id'] and segment['score'] is None
                continue
            thing = segment['label_id'] < make(task).num_things
            assert segment['isthing'] == thing and 0 < segment['score'] <= 1
            assert 1 <= segment['id'] <= QUERIES if thing else segment['id'] == QUERIES + 1 + segment['label_id']


def test_a_track_is_its_query_under_the_best_label(make: Make) -> None:
    samples, found = (
        make('instance')(video(), return_datasamples=given, pred_score_thr=0.0)['predictions']
        for given in (True, False)
    )
    for sample, prediction in zip(samples, found, strict=True):
        tracks = sample.pred_track_instances
        assert len(tracks) > len(set(tracks.queries.tolist()))  # some under several labels
        for segment in prediction['segments_info']:
            own = tracks[tracks.queries == segment['id'] - 1]
            assert segment['score'] == pytest.approx(float(own.scores.max()))
            assert segment['label_id'] == int(own.labels[own.scores.argmax()])
            assert np.array_equal(mask_api.decode(segment['mask']), own.masks[0].numpy())


def test_scores_are_those_so_far_or_of_all_frames(make: Make) -> None:
    online, whole = (make('instance')(video(), whole_video=whole)['predictions'] for whole in (False, True))
    scores = [{s['id']: s['score'] for s in found['segments_info']} for found in whole]
    assert all(scores[0][id_] == score for found in scores for id_, score in found.items() if id_ in scores[0])
    last = {s['id']: s['score'] for s in online[-1]['segments_info']}
    assert last == pytest.approx(scores[-1], abs=1e-4)
    assert [s['label'] for s in online[0]['segments_info']] != [s['label'] for s in online[-1]['segments_info']]


def test_thresholds(make: Make) -> None:
    every, some = (
        [s['score'] for found in make('instance')(video(), pred_score_thr=thr)['predictions']
         for s in found['segments_info']]
        for thr in (0.0, None)
    )  # fmt: skip
    assert min(every) < 0.3 <= min(some) and len(some) < len(every)
    panoptic = make('panoptic')
    before = panoptic.head.score_thr, panoptic.head.overlap_thr
    (none,) = panoptic(video(length=1), pred_score_thr=1.0)['predictions']
    assert none['segments_info'] == [] and not none['segmentation'].any()
    assert (panoptic.head.score_thr, panoptic.head.overlap_thr) == before
    with pytest.raises(ValueError, match='semantic model have no scores'):
        make('semantic').stream(video(), pred_score_thr=0.5)


def test_conventions_of_inferencers(make: Make) -> None:
    inferencer, frames = make('panoptic'), video()
    ((_, data),) = inferencer.preprocess([ImageInput(str(k), pixels=lambda f=f: f) for k, f in enumerate(frames)], T)
    found = inferencer.postprocess(inferencer.forward(data), 0.0)
    expected = inferencer(frames)['predictions']
    assert [str(one['segments_info']) for one in found] == [str(one['segments_info']) for one in expected]


def test_tracks_as_youtube_vis_has_them(make: Make, tmp_path: Path) -> None:
    folders = [write_frames(tmp_path / name, video(seed)) for seed, name in enumerate(('00000007', 'b'))]
    found = make('instance')(folders, out_dir=tmp_path / 'out', no_save_vis=True)['predictions']
    tracks = json.loads((tmp_path / 'out/preds/instance_results.json').read_text())
    info = json.loads((tmp_path / 'out/preds/video_info.json').read_text())
    assert [(v['id'], v['name'], v['length'], v['height'], v['width']) for v in info['videos']] == [
        (7, '00000007', T, *SIZE), ('b', 'b', T, *SIZE),
    ]  # fmt: skip
    assert info['videos'][1]['file_names'] == [(folders[1] / f'{k}.png').as_posix() for k in range(T)]
    assert info['info'] == dict(class_scores='mean of the frames so far')
    assert [category['id'] for category in info['categories']] == [1, 2, 3, 4]
    assert {track['video_id'] for track in tracks} == {7, 'b'}
    gaps = 0
    for track in tracks:
        frames = found[:T] if track['video_id'] == 7 else found[T:]
        own = [[s for s in f['segments_info'] if s['id'] == track['track_id']] for f in frames]
        assert track['segmentations'] == [s[0]['mask'] if s else None for s in own]
        assert track['score'] == pytest.approx(np.mean([s['score'] for f in own for s in f]))
        labels = [s['label_id'] for f in own for s in f]
        assert labels.count(track['category_id'] - 1) == max(map(labels.count, labels))
        gaps += not all(own)
    assert gaps
    assert len(tracks) == sum(
        len({s['id'] for f in part for s in f['segments_info']}) for part in (found[:T], found[T:])
    )


@pytest.mark.parametrize('task', ['panoptic', 'semantic'])
def test_maps_are_written_frame_by_frame(task: str, make: Make, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / 'a', video())
    make(task)(folder, out_dir=tmp_path / 'out', no_save_vis=True, whole_video=True)
    names = [f'{k}.png' for k in range(T)]
    assert sorted(file.name for file in (tmp_path / f'out/preds/{task}_results/a').iterdir()) == names
    file = 'panoptic_results.json' if task == 'panoptic' else 'image_info.json'
    assert json.loads((tmp_path / 'out/preds' / file).read_text())['info'] == dict(class_scores='mean of all frames')


def test_pictures_are_videos_and_of_single_images_pictures(make: Make, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / 'a', video())
    single = write_frames(tmp_path / 'b', video(length=1)) / '0.png'
    results = list(make('panoptic').stream([folder, single], out_dir=tmp_path / 'out', fps=3, return_vis=True))
    assert [(r.name, r.video) for r in results] == [*((f'a/{k}', 'a') for k in range(T)), ('0', None)]
    assert sorted(file.name for file in (tmp_path / 'out/vis').iterdir()) == ['0.png', 'a.mp4']
    capture = cv2.VideoCapture(str(tmp_path / 'out/vis/a.mp4'))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (T, 3)
    frame = capture.read()[1][..., ::-1].astype(int)
    assert frame.shape == results[0].picture.shape and np.abs(frame - results[0].picture).mean() < 10


def test_a_track_keeps_its_colour(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    one = VideoInferencer._drawn

    def watched(self, segment, colour_of):  # type: ignore[no-untyped-def]
        result = one(self, segment, colour_of)
        drawn.append(dict(id=segment.id, name=result.name, colour=result.colour))
        return result

    monkeypatch.setattr(VideoInferencer, '_drawn', watched)
    make('instance')(video(), return_vis=True)
    colours = {segment['id']: segment['colour'] for segment in drawn}
    assert len(set(colours.values())) == len(colours) > 2
    assert all(colours[segment['id']] == segment['colour'] for segment in drawn)
    assert all(segment['name'].endswith(f' #{segment["id"]}') for segment in drawn)
    assert len({(segment['id'], segment['name']) for segment in drawn}) > len(colours)  # labels do change
    drawn.clear()
    make('panoptic')(video(), return_vis=True)
    palette = make('panoptic').meta['palette']
    stuff = [segment for segment in drawn if '#' not in segment['name']]
    assert stuff and all(s['colour'] == palette[s['id'] - QUERIES - 1] for s in stuff)


def test_colours_of_tracks() -> None:
    palette = [(10, 20, 30), (200, 100, 0)]
    shades = TrackColours(palette)
    assert [shades.of(7, 0), shades.of(3, 1), shades.of(5, 0)] == [palette[0], palette[1], shade(palette[0], 1)]
    assert shades.of(5, 1) == shade(palette[0], 1)  # the first label counts
    distinct = TrackColours(None)
    given = [distinct.of(k, 0) for k in range(TrackColours.NUM_DISTINCT + 1)]
    assert len(set(given)) == TrackColours.NUM_DISTINCT and given[-1] == given[0] == distinct.of(0, 1)


@pytest.mark.parametrize('whole', [False, True])
def test_unreadable_frames_are_left_out(whole: bool, make: Make, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / 'a', video())
    expected = make('instance')([folder / name for name in ('0.png', '2.png', '3.png')], whole_video=whole)
    (folder / '1.png').write_text('no image')
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / '0.png').write_text('nor this')
    with pytest.warns(UserWarning, match='skipped: image .*png') as warned:
        found = make('instance')([folder, tmp_path / 'b'], whole_video=whole, on_error='skip', batch_size=2)
    assert sum('skipped' in str(warning.message) for warning in warned) == 2
    assert make('instance').skipped == [folder / '1.png', tmp_path / 'b' / '0.png']
    pairs = zip(found['predictions'], expected['predictions'], strict=True)
    assert all((one['segmentation'] != other['segmentation']).mean() < 0.01 for one, other in pairs)
    with pytest.raises(ValueError, match='1.png cannot be decoded'):
        make('instance')(folder, whole_video=whole)


@pytest.mark.parametrize('batch_size', [1, 3])
def test_a_video_has_one_size(batch_size: int, make: Make) -> None:
    frames = [*video(length=2), *video(length=1, size=(64, 40))]
    with pytest.raises(ValueError, match=r'/000002 is \(64, 40\), those before it \(40, 64\) .* a video has one size'):
        make('semantic')(frames, batch_size=batch_size)


@pytest.mark.parametrize('whole', [False, True])
def test_bad_frames_and_videos_are_skipped(whole: bool, make: Make, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / 'a', [*video(length=2), *video(length=1, size=(64, 40)), *video(length=1)])
    strips = write_frames(tmp_path / 'strips', video(length=2, size=(1, 500)))
    empty, cut = write_cut_video(tmp_path / 'empty.avi', 0), write_cut_video(tmp_path / 'cut.avi', 0.2)
    inferencer = make('semantic')
    with pytest.warns(UserWarning, match='skipped') as warned:
        stream = inferencer.stream(
            [folder, empty, strips, cut], 2, tmp_path / 'out', whole_video=whole, on_error='skip'
        )
        names = [result.name for result in stream]
    assert names[:3] == ['a/0', 'a/1', 'a/3'] and 4 < len(names[3:]) < 12
    assert all(name.startswith('cut/') for name in names[3:])
    skipped = [path.relative_to(tmp_path).as_posix() for path in inferencer.skipped]
    assert skipped == ['a/2.png', 'empty.avi', 'strips/0.png', 'strips/1.png', 'cut.avi']
    texts = [str(one.message) for one in warned if 'skipped' in str(one.message)]
    assert all(Path(name).name in text for name, text in zip(skipped, texts, strict=True))
    assert sorted(file.name for file in (tmp_path / 'out/vis').iterdir()) == ['a.mp4', 'cut.mp4']


def test_results_never_replace_frames_or_videos(make: Make, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / 'preds' / 'semantic_results' / 'clip', video(length=2))
    clip, photo = write_cut_video(tmp_path / 'clip.avi', 0.2, 10), tmp_path / 'vis' / 'a.png'
    photo.parent.mkdir()
    photo.write_bytes((frames / '0.png').read_bytes())
    clip.rename(photo.with_name('clip.mp4'))
    for inputs in (frames, photo.with_name('clip.mp4'), photo):
        with pytest.raises(ValueError, match='would replace the input'):
            make('semantic').stream(inputs, out_dir=tmp_path)


@pytest.mark.parametrize('whole', [False, True])
def test_a_stream_that_is_left_leaves_whole_files(whole: bool, make: Make, tmp_path: Path) -> None:
    folders = [write_frames(tmp_path / name, video()) for name in 'ab']
    stream = make('instance').stream(folders, out_dir=tmp_path / 'out', whole_video=whole)
    names = [next(stream).name for _ in range(T + 2)]
    stream.close()
    assert names[T:] == ['b/0', 'b/1']
    assert [file.name for file in (tmp_path / 'out').rglob('*') if file.is_file()] == ['a.mp4']


def test_the_inferencer_fits_the_model() -> None:
    cfg = video_config('instance')
    with pytest.warns(UserWarning, match='weights are random'):
        assert type(init_inferencer(cfg, device='cpu')) is VideoInferencer
        assert type(init_inferencer(small_config('panoptic'), device='cpu')) is EoMTInferencer
    message = r'which needs VideoInferencer, not EoMTInferencer: tools/demo.py and eomt_mm.apis.init_inferencer'
    with pytest.raises(ValueError, match=message):
        EoMTInferencer(cfg)
    with pytest.raises(ValueError, match='which needs EoMTInferencer, not VideoInferencer'):
        VideoInferencer(small_config('panoptic'))
    with pytest.raises(ValueError, match="task='panoptic': .* trained for instance segmentation"):
        init_inferencer(cfg, task='panoptic')


def test_a_config_that_a_training_left_finds_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / 'projects' / 'made_up' / 'made_up'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text('')
    config = tmp_path / 'work_dirs' / 'config.py'
    config.parent.mkdir()
    config.write_text("custom_imports = dict(imports=['made_up'], allow_failed_imports=False)\nmodel = dict()\n")
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(ImportError, match='Failed to import .*made_up'):
        load_config(config)
    monkeypatch.setattr('eomt_mm.apis.config.PROJECTS', tmp_path / 'projects')
    load_config(config)
    assert 'made_up' in sys.modules and sys.path[0] == str(package.parent)


def test_the_page_of_images_refuses_videos(tmp_path: Path) -> None:
    config, checkpoint = saved_video_model('instance', tmp_path)
    with pytest.raises(ValueError, match='which needs VideoInferencer') as refused:
        load_models([(str(config), str(checkpoint))])
    assert '\n' not in str(refused.value)


def test_demo(tool: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = saved_video_model('instance', tmp_path / 'model')
    folder = tmp_path / 'JPEGImages'
    for seed, name in enumerate('ab'):
        write_frames(folder / name, video(seed))
    tool('demo.py', folder, *model, '--out-dir', tmp_path / 'out', '--whole-video', '--batch-size', 2, '--fps', 6)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ['video', 'a', 'b']
    tracks = json.loads((tmp_path / 'out/preds/instance_results.json').read_text())
    assert [int(line.split()[1]) for line in lines[1:3]] == [
        sum(track['video_id'] == name for track in tracks) for name in 'ab'
    ]
    assert lines[3].startswith('videos segmented (instance): 2; written: ')
    assert sorted(file.name for file in (tmp_path / 'out/vis').iterdir()) == ['a.mp4', 'b.mp4']
    with pytest.raises(SystemExit, match='demo: fps=0.0: frames per second'):
        tool('demo.py', folder, *model, '--out-dir', tmp_path / 'out', '--fps', 0)


def test_folders_are_videos_whatever_the_names_of_their_files(tmp_path: Path) -> None:
    files = ['a.jpg', 'b/0.jpg', 'b/1.jpg', 'c.jpg', '1/2.jpg', '01/1.jpg', '1/10.jpg', '01/3.jpg']
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    videos = as_videos(find_sources(str(tmp_path)))
    found = [
        [frame.path.relative_to(tmp_path).as_posix() for frame in video.frames() if frame.path] for video in videos
    ]
    assert found == [['a.jpg', 'c.jpg'], ['01/1.jpg', '01/3.jpg'], ['1/2.jpg', '1/10.jpg'], ['b/0.jpg', 'b/1.jpg']]


def test_a_broken_video_is_left_out(tmp_path: Path) -> None:
    (tmp_path / 'broken.mp4').write_bytes(b'nothing')
    unreadable: list[Path] = []
    with pytest.warns(UserWarning, match='broken.mp4 cannot be read'):
        assert find_sources(str(tmp_path), suffixes=('.mp4',), unreadable=unreadable) == []
    assert unreadable == [tmp_path / 'broken.mp4']
    with pytest.raises(ValueError, match=r'broken.mp4 cannot be read'):
        find_sources(str(tmp_path), suffixes=('.mp4',))
