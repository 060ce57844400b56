"""A page in the browser: drop a photograph, slide over a new background, download the cut-out.

    python -m tools.app --checkpoint P        then open http://127.0.0.1:7860; Ctrl-C ends it

Needs gradio. Nothing leaves the machine, unless --share is given.
"""

import functools
import html
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from config import RUNS, AppConfig, parse_cli
from utils.errors import UserError, run_script
from utils.inference import Predictor, load_model, newest_best
from utils.page import (
    COMPOSITES,
    VIEWS,
    Subject,
    ViewName,
    choose_rendering,
    describe_subject,
    draw_for_screen,
    explain,
    find_subject,
    write_for_screen,
    write_result,
)
from utils.renderings import Rendering

OLDEST = (6, 24)  # gradio; before, pages asked another server for a script
SESSIONS = 16  # whose photograph is kept; of more, those that were not used for longest are asked for it again
BYTES_A_PIXEL = 8  # of the largest file that is taken: four channels of 16 bits
KEPT_SECONDS = 3600  # a photograph and its files, after they were last made
FAULT = "Something went wrong that should not have. The terminal in which the page runs says what."
PLACEHOLDER = "# Drop a photograph\nclick to choose one, or paste it"
PASTE = """() => document.addEventListener("paste", event => {
  const box = document.querySelector("#photo input[type=file]"), files = new DataTransfer();
  const pasted = [...event.clipboardData.files].find(file => file.type.startsWith("image/"));
  if (!box || !pasted) return;
  files.items.add(pasted);
  box.files = files.files;
  box.dispatchEvent(new Event("change", {bubbles: true}));
})"""
CSS = Path(__file__).with_suffix(".css")


class Shown(NamedTuple):
    """What a visitor sees.

    Attributes:
        subject: What was found.
        photograph: The file that the browser shows.
    """

    subject: Subject
    photograph: Path


def main() -> int:
    config = parse_cli(AppConfig, prog="python -m tools.app", description=__doc__)
    with tempfile.TemporaryDirectory(prefix="tsr-matte-") as name:
        folder = Path(os.path.realpath(name))
        gradio = import_gradio(folder)
        checkpoint = config.checkpoint or newest_best(RUNS)
        predictor = load_model(checkpoint, config.device, config.precision)
        page = build_page(gradio, predictor, folder, config.max_pixels)
        addresses = launch(gradio, page, config)
        try:
            print(f"checkpoint {checkpoint} on {predictor.device}, {config.precision}")
            print(f"{' '.join(addresses)}  (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    return 0


def import_gradio(folder: Path) -> Any:
    """gradio, told by its environment to keep its files in a folder and everything else to itself.

    Raises:
        UserError: It is not there, or too old.
    """
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",  # or browsers keep the photographs
    }
    try:
        import gradio
        from gradio import __version__ as version  # which a folder of that name lacks
    except ImportError as error:
        raise UserError(f"the page needs gradio ({error}): pip install gradio") from error
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST:
        oldest = "{}.{}".format(*OLDEST)
        raise UserError(f'the page needs gradio {oldest}, not {version}: pip install "gradio>={oldest}"')
    return gradio


# ------------------------------------------------------------------------------------------------ the page


def build_page(gradio: Any, predictor: Predictor, folder: Path, max_pixels: int) -> Any:
    """The page's widgets, and what happens when they are used; a gradio.Blocks."""

    def told(function: Callable) -> Callable:
        """The same, its errors shown in a line."""

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except Exception as error:
                text = explain(error, folder, max_pixels=max_pixels)
                raise gradio.Error(html.escape(text or FAULT), print_exception=text is None) from error

        return call

    def own(path: str) -> Path:
        """A file that was given to the page; gradio lets a made-up request name others of this machine."""
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(folder):
            raise UserError("That file was not given to this page. Choose it again.")
        return real

    def rendering(view: ViewName, colour: str, picture: str | None) -> Rendering:
        return choose_rendering(view, colour=colour, picture=picture and own(picture), max_pixels=max_pixels)

    def view_of(subject: Subject, drawn_by: Rendering) -> Path:
        return write_for_screen(draw_for_screen(subject, drawn_by), subject, folder)

    @told
    def find(file: dict | None) -> tuple | Any:
        if file is None:  # the box was emptied, or the camera chosen
            return gradio.skip()
        subject = find_subject(own(file["path"]), predictor, max_pixels=max_pixels)
        photograph = write_for_screen(subject.screen.photo.rgb, subject, folder)
        pictures = photograph, view_of(subject, rendering(VIEWS[0], "", None))
        text = describe_subject(subject, predictor)
        return Shown(subject, photograph), pictures, text, VIEWS[0], *sides(done=True), *options(VIEWS[0])

    def sides(*, done: bool) -> tuple:
        """Either the box that takes a photograph, or what was found."""
        return gradio.update(value=None, visible=not done), gradio.update(visible=done)

    def options(view: ViewName) -> tuple:
        """What goes with some views only: the picker of a colour, the choice of a picture, a file of the composite."""
        return tuple(
            gradio.update(visible=shown) for shown in (view == "Colour", view == "Picture", view in COMPOSITES)
        )

    @told
    def draw(shown: Shown | None, view: ViewName, colour: str, picture: str | None) -> tuple | Any:
        if view == "Picture" and picture is None:
            return gradio.skip()
        subject, photograph = require(shown)
        return photograph, view_of(subject, rendering(view, colour, picture))

    @told
    def write(shown: Shown | None, view: ViewName, colour: str, picture: str | None) -> str:
        return str(write_result(require(shown).subject, rendering(view, colour, picture), folder))

    with gradio.Blocks(title="TSR-Matte", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as page:
        shown, picture = gradio.State(time_to_live=KEPT_SECONDS), gradio.State(time_to_live=KEPT_SECONDS)
        gradio.Markdown("# TSR-Matte\nCuts the subject out of a photograph, at the photograph's own resolution.")
        photo = gradio.Image(
            type="filepath", image_mode=None, sources=["upload", "clipboard", "webcam"], placeholder=PLACEHOLDER,
            show_label=False, buttons=[], height=420, elem_id="photo",
        )  # fmt: skip
        with gradio.Column(visible=False) as result:
            slider = gradio.ImageSlider(
                type="filepath", interactive=False, show_label=False, buttons=["fullscreen"],
                max_height=640, elem_id="slider",
            )  # fmt: skip
            with gradio.Row(elem_id="about"):
                line = gradio.Markdown(elem_id="line")
                again = gradio.Button("Another photograph", size="sm", elem_id="again")
            with gradio.Row(elem_id="views"):
                view = gradio.Radio(VIEWS, value=VIEWS[0], label="Background", show_label=False, container=False)
                colour = gradio.ColorPicker("#e8c547", label="Colour", container=False, visible=False, elem_id="colour")
                upload = gradio.UploadButton(
                    "Choose a picture", file_types=["image"], size="sm", visible=False, elem_id="picture"
                )
            with gradio.Row(elem_id="results"):
                kept = {
                    "Transparent": gradio.Button("↓ Cut-out", variant="primary"),
                    "Matte": gradio.Button("↓ Matte"),
                    None: gradio.Button("↓ As shown", visible=False),
                }
            ready = gradio.DownloadButton(elem_id="ready")

        # Not preprocessed: gradio would open what was dropped itself, and answer for what it cannot read.
        found = photo.input(
            find, photo, [shown, slider, line, view, photo, result, colour, upload, kept[None]], preprocess=False,
            concurrency_id="network", show_progress_on=photo,
        )  # fmt: skip
        found.failure(lambda: gradio.update(value=None), None, photo, queue=False)
        again.click(lambda: (None, *sides(done=False)), None, [shown, photo, result], queue=False)
        chosen = [view, colour, picture]
        view.input(options, view, [colour, upload, kept[None]], queue=False)
        upload.upload(lambda path: path, upload, picture, queue=False).then(draw, [shown, *chosen], slider)
        for widget in (view, colour):
            widget.input(draw, [shown, *chosen], slider, trigger_mode="always_last")
        for kind, button in kept.items():
            inputs = [shown, gradio.State(kind), *chosen[1:]] if kind else [shown, *chosen]
            made = button.click(write, inputs, ready)
            made.success(None, js="() => document.querySelector('#ready').click()")
        page.load(None, js=PASTE)
    return page


def require(shown: Shown | None) -> Shown:
    """What is shown, if it is still kept."""
    if shown is None:
        raise UserError("The photograph was too long ago and is no longer kept. Choose it again.")
    return shown


# ------------------------------------------------------------------------------------------------ the server


def launch(gradio: Any, page: Any, config: AppConfig) -> list[str]:
    """Serves the page, in threads of its own, and gives its addresses.

    Raises:
        UserError: The port or the host cannot be had.
    """
    try:
        _, *addresses = page.queue(default_concurrency_limit=1).launch(
            server_name=config.host,
            server_port=config.port,
            share=config.share,
            max_file_size=BYTES_A_PIXEL * config.max_pixels,
            state_session_capacity=SESSIONS,
            theme=theme(gradio),
            css_paths=CSS,
            footer_links=[],
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"--port {config.port}: cannot be used on {config.host}; choose another") from error
    return [address for address in addresses if address]


def theme(gradio: Any) -> Any:
    """Colours, with those of a dark screen, and fonts of the system: others would come from elsewhere."""
    font = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    plain = gradio.themes.Base(font=font, font_mono=["monospace"], text_size="lg", radius_size="lg")
    colours = {
        "body_background_fill": ("#ffffff", "#15191c"),
        "background_fill_primary": ("#ffffff", "#15191c"),
        "background_fill_secondary": ("#f3f5f6", "#1d2327"),
        "block_background_fill": ("transparent", "transparent"),
        "border_color_primary": ("#d3d9dd", "#3a434a"),
        "body_text_color": ("#1d2326", "#e4e8ea"),
        "body_text_color_subdued": ("#5c666c", "#9aa5ab"),
        "button_primary_background_fill": ("#1f6f8b", "#6fbfd8"),
        "button_primary_background_fill_hover": ("#185a71", "#8accdf"),
        "button_primary_text_color": ("#ffffff", "#0f1416"),
        "button_secondary_background_fill": ("#f3f5f6", "#1d2327"),
        "button_secondary_background_fill_hover": ("#e6eaec", "#2a3238"),
        "button_secondary_text_color": ("#1d2326", "#e4e8ea"),
    }
    light = {name: colour for name, (colour, _) in colours.items()}
    dark = {f"{name}_dark": colour for name, (_, colour) in colours.items()}
    return plain.set(block_border_width="0px", color_accent="#3a93b3", **light, **dark)


if __name__ == "__main__":
    run_script(main)
