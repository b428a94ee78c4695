"""The pictures of model cards and reports, as SVG text: heads, densities, training curves, speed, trade-off.

Every colour is a CSS variable with its light value behind it, so that a page can show the same picture in the dark.
Hovering is CSS inside the SVG: it works where the file itself is opened or stands inside a page, not where a page
embeds it as an image.
"""
