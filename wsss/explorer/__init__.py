"""A page on which a model is asked, with the mouse, why it says what it says.

It knows no model: `explained` says what has to be known of one, and each family brings its own (``cnnseg explore``,
``vitseg explore``). Layers, the upper ones first: ``page`` and ``widgets`` (Gradio), ``serving`` (what is let through
to them), ``asking`` (what a visitor does, as Python calls), ``sessions``, ``drawing``, ``pictures`` and ``uploads``.
Nothing below ``page`` imports Gradio.
"""
