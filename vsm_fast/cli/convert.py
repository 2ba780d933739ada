"""``vsm-fast convert``: one model folder from the released files of a known model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group

from vsm_fast.cli.common import ExitCode, UsageError, print_text
from vsm_fast.cli.options import OPTIONS, Command, Directory, File, option
from vsm_fast.model.presets import PRESETS, ModelPreset, converted_folder

_FILES = Group("local copies of the files, instead of the Hub's", sort_key=OPTIONS.sort_key + 1)


def _check_revisions(_: type, revisions: Sequence[str]) -> None:
    for text in revisions:
        repository, _separator, revision = text.partition("=")
        if not repository or not revision:
            raise ValueError(f"expected REPOSITORY=REVISION; got {text!r}")


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Convert the released files of a known model into one model folder.

    The folder scores (--model FOLDER, or --model NAME without --out); where no aggregation
    networks were published, they can be trained on it (vsm-fast train --backbone FOLDER).

    Missing files come from the Hub cache or are downloaded into it. HF_HUB_OFFLINE, HF_ENDPOINT
    and HF_HUB_CACHE are respected. Only safetensors files are read. vsm-fast models lists the
    presets and their cached files.
    """

    preset: Annotated[str, option(f"one of {', '.join(PRESETS)}", metavar="NAME")]
    revision: Annotated[
        tuple[str, ...],
        option(
            "commit, tag or branch of one of the preset's repositories; can be repeated",
            metavar="REPOSITORY=REVISION",
            validator=_check_revisions,
        ),
    ] = ()
    tiny_vae: Annotated[
        bool,
        option(
            "use the distilled VAE (TAESD): an approximation with a tenth of the VAE's "
            "arithmetic; the model is called NAME-tiny-vae"
        ),
    ] = False
    no_aggregation: Annotated[
        bool, option("leave out published aggregation networks, to train new ones")
    ] = False
    out: Annotated[
        Directory | None,
        option("output (default: $VSM_FAST_HOME/models/NAME, the folder of --model NAME)"),
    ] = None
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"], option("precision of the backbone on disk")
    ] = "float16"
    local_files_only: Annotated[bool, option("never download files")] = False
    base: Annotated[Directory | None, option("base model in the layout of diffusers", _FILES)] = (
        None
    )
    cleandift: Annotated[File | None, option("full CleanDIFT checkpoint, .safetensors", _FILES)] = (
        None
    )
    aggregation: Annotated[File | None, option("aggregation weights, .safetensors", _FILES)] = None
    aggregation_config: Annotated[
        File | None, option("their training configuration, .yaml", _FILES)
    ] = None
    tiny_vae_folder: Annotated[
        Directory | None, option("tiny VAE in the layout of diffusers", _FILES)
    ] = None

    def run(self) -> ExitCode:
        """Convert the files."""
        if self.preset not in PRESETS:
            raise UsageError(f"--preset {self.preset}: unknown. Choose from {', '.join(PRESETS)}.")
        preset = PRESETS[self.preset]
        self._check(preset)
        import torch

        from vsm_fast.model.convert import LocalFiles, convert, model_name

        name = model_name(preset, tiny_vae=self.tiny_vae)
        out = self.out or converted_folder(name)
        networks = preset.networks is not None and not self.no_aggregation
        try:
            convert(
                preset,
                out,
                LocalFiles(
                    self.base,
                    self.cleandift,
                    self.aggregation,
                    self.aggregation_config,
                    self.tiny_vae_folder,
                ),
                networks=networks,
                tiny_vae=self.tiny_vae,
                revisions=dict(text.partition("=")[::2] for text in self.revision),
                dtype=getattr(torch, self.dtype),
                local_files_only=self.local_files_only,
                tell=print_text,
            )
        except ImportError as error:
            raise UsageError(str(error)) from error
        model = out if self.out else name
        print_text(f"wrote {out}")
        if networks:
            print_text(f"Score with it: vsm-fast score --model {model} --refs ... --gens ...")
        else:
            print_text(
                "It has no aggregation networks. Train them: "
                f"vsm-fast train --backbone {model} --pairs ... --validation ... --out ..."
            )
        return ExitCode.OK

    def _check(self, preset: ModelPreset) -> None:
        """Refuse files that the preset does not use."""
        unused = []
        if self.cleandift is not None and preset.cleandift is None:
            unused.append("--cleandift")
        if preset.networks is None:
            networks = {
                "--aggregation": self.aggregation,
                "--aggregation-config": self.aggregation_config,
            }
            unused += [option for option, path in networks.items() if path is not None]
        if self.tiny_vae_folder is not None and not self.tiny_vae:
            raise UsageError("--tiny-vae-folder needs --tiny-vae; give both.")
        if unused:
            raise UsageError(f"--preset {preset.name} takes no {', '.join(unused)}.")
        if self.no_aggregation and (self.aggregation or self.aggregation_config):
            raise UsageError("--no-aggregation: leave out --aggregation and --aggregation-config.")
