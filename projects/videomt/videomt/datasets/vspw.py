"""VSPW, read from the official folders.

Format (the "Instruction" of the VSPW download page): ``data/<video>/origin/*.jpg``, ``data/<video>/mask/*.png``, and a
list of videos per split (``train.txt``, ``val.txt``, ``test.txt``). Values of the masks: 1 .. 124 are the classes of
``label_num_dic_final.json``, 0 ("others") and 255 (void) belong to none.
"""

import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine import fileio

from eomt_mm.annotations.categories import choose_classes
from eomt_mm.datasets.file_listing import read_list
from eomt_mm.registry import DATASETS
from videomt.datasets.classes import wild_metainfo
from videomt.datasets.clips import Item, VideoDataset


@DATASETS.register_module()
class VSPW(VideoDataset):
    """VSPW: the 124 classes of VIPSeg, in the same order.

    ``ann_file`` is the list of videos (train.txt), ``data_prefix['img']`` the folder of the videos (data).
    ``metainfo['classes']`` selects classes (things first); pixels of others are void. An item's frames have img_path,
    seg_map_path (None for test videos, which have no masks) and category_ids, for `LoadVSPWTracks`.

    Arguments and errors: see `VideoDataset`. Every video counts as annotated.
    """

    METAINFO = wild_metainfo()

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stated = super()._load_metainfo(metainfo)
        return {**stated, **choose_classes(cls.METAINFO, stated, given=set(metainfo or ()))}

    def load_videos(self) -> list[Item]:
        """Read the list of videos and list their frames; see the class."""
        return [self._video(name) for name in read_list(self.ann_file, 'list of videos', self.backend_args)]

    def _video(self, name: str) -> Item:
        folder = osp.join(self.data_prefix.get('img', ''), name)
        frames, masks = self._list(osp.join(folder, 'origin'), '.jpg'), self._list(osp.join(folder, 'mask'), '.png')
        missing = sorted(set(frames) - set(masks))
        if missing and (masks or not self.test_mode):
            raise FileNotFoundError(
                f'{len(missing)} of {len(frames)} frames of video {name} have no mask below {folder}/mask, the first '
                f'would be {missing[0]}.png: unpack the masks completely'
            )
        images = [
            {
                'img_path': osp.join(folder, 'origin', f'{stem}.jpg'),
                'seg_map_path': osp.join(folder, 'mask', f'{stem}.png') if masks else None,
            }
            for stem in frames
        ]
        return {'video_id': name, 'images': images, 'is_annotated': True}

    def get_data_info(self, idx: int) -> Item:
        """Return a video, with the ``category_ids`` that all frames share and that are not stored per frame."""
        video: Item = super().get_data_info(idx)
        for frame in video['images']:
            frame['category_ids'] = self._metainfo['category_ids']
        return video

    def _list(self, folder: str, suffix: str) -> list[str]:
        """List file names without ``suffix``, sorted; empty if there is no such folder."""
        if not fileio.isdir(folder, backend_args=self.backend_args):
            return []
        names = fileio.list_dir_or_file(folder, list_dir=False, suffix=suffix, backend_args=self.backend_args)
        return sorted(name.removesuffix(suffix) for name in names)
