"""Gradio's theme of the page: neutral, one accent, fonts that lie in Gradio's package. The rest is static/page.css."""

from __future__ import annotations

from wsss.extras import extra

with extra("explorer"):
    import gradio as gr


ACCENT = gr.themes.Color(
    c50="#eefaf8", c100="#d3f2ee", c200="#a9e4de", c300="#75d0c8", c400="#41b3aa", c500="#23968e", c600="#127871",
    c700="#10605c", c800="#114d4a", c900="#12403e", c950="#042524",
)  # fmt: skip


def theme() -> gr.themes.Base:
    """The theme; every colour that it leaves to page.css is a variable there."""
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(
        body_background_fill="#f4f5f3",
        body_background_fill_dark="#101413",
        body_text_color="#1c2423",
        body_text_color_dark="#e6ebea",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_size="*text_sm",
        block_title_text_color="#55605e",
        block_title_text_color_dark="#9fb0ad",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1a211f",
        input_border_color="#cfd6d4",
        input_border_color_dark="#34403d",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1a211f",
        button_secondary_border_color="#cfd6d4",
        button_secondary_border_color_dark="#34403d",
    )
