"""What a page must keep on a phone: targets for a finger, sentences in whole, nothing out of reach."""

from __future__ import annotations

from typing import Any

from tests.interop.browser import Page

PHONES = [(390, 844), (320, 568)]  # a usual one, and the narrowest that WCAG 2.2 (1.4.10) asks for
TARGET = 44  # CSS pixels each way (WCAG 2.2, 2.5.5)

SMALL = """
[...document.querySelectorAll("button, input, select, a[href]")].flatMap((element) => {
  const target = element.type === "checkbox" ? element.closest("label") : element;
  const { width, height } = target.getBoundingClientRect();
  if (!element.checkVisibility() || (width >= %d && height >= %d)) return [];
  return [`${element.id || element.ariaLabel || element.textContent}: ${width} x ${height}`];
})
"""
CLIPPED = """
[...document.querySelectorAll(%r)].filter((element) => element.checkVisibility()
  && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1
    || element.getBoundingClientRect().right > innerWidth)).map((element) => element.textContent)
"""
REACHED = """
(() => {
  const element = document.querySelector(%r);
  element.scrollIntoView({ block: "center", inline: "nearest" });
  const { left, right, top, bottom } = element.getBoundingClientRect();
  const there = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return left >= 0 && right <= innerWidth && (there === element || element.contains(there));
})()
"""


def too_small(page: Page) -> list[str]:
    """What is to be touched and is smaller than a fingertip."""
    found: list[str] = page.run(SMALL % (TARGET, TARGET))
    return found


def clipped(page: Page, selector: str) -> list[str]:
    """Texts that cannot be read to their end."""
    found: list[str] = page.run(CLIPPED % selector)
    return found


def reached(page: Page, selector: str) -> bool:
    """Whether a finger reaches it without moving anything sideways."""
    return bool(page.run(REACHED % selector))


def fits(page: Page) -> bool:
    return bool(page.run("document.documentElement.scrollWidth <= innerWidth"))


def keys_shown(page: Page) -> list[Any]:
    """Hints at keys, which a phone has not."""
    found: list[Any] = page.run(
        "[...document.querySelectorAll('kbd, .keys')].filter((e) => e.checkVisibility())"
        ".map((e) => e.textContent)"
    )
    return found
