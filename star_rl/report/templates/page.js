"use strict";
/* Sorting: a click, Enter or Space on a column's button. Missing numbers stay last either way. */
document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = Array.prototype.slice.call(table.tHead.querySelector("button").closest("tr").cells), live = document.getElementById("sorted");
  heads.forEach(function (head, column) {
    var button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", function () {
      var text = head.hasAttribute("data-text"), now = head.getAttribute("aria-sort");
      var up = now ? now !== "ascending" : text, body = table.tBodies[0];
      var rows = Array.prototype.slice.call(body.rows).map(function (row, index) {
        var raw = row.cells[column].getAttribute("data-value"), key = text ? raw : parseFloat(raw);
        return { row: row, index: index, key: key, none: text ? !raw : isNaN(key) };
      });
      rows.sort(function (a, b) {
        if (a.none || b.none) return a.none - b.none || a.index - b.index;
        var order = text ? a.key.localeCompare(b.key) : a.key - b.key;
        return (up ? order : -order) || a.index - b.index;
      });
      rows.forEach(function (entry) { body.appendChild(entry.row); });
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      if (live) live.textContent = "Sorted by " + button.textContent + ", " + (up ? "ascending" : "descending");
    });
  });
});
/* A block that scrolls can be reached by keyboard; one that does not is no stop. */
function reach() {
  document.querySelectorAll("pre").forEach(function (one) {
    if (one.scrollHeight > one.clientHeight + 1) one.tabIndex = 0; else one.removeAttribute("tabindex");
  });
}
document.querySelectorAll("details").forEach(function (one) { one.addEventListener("toggle", reach); });
addEventListener("resize", reach);
reach();
/* A link to a folded task opens it. */
function unfold() {
  var one = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (one && one.tagName === "DETAILS") { one.open = true; one.scrollIntoView(); }
}
addEventListener("hashchange", unfold);
unfold();
/* On paper nothing is folded but prompts and the numbers under a figure. */
var folded = [];
addEventListener("beforeprint", function () {
  folded = Array.prototype.slice.call(document.querySelectorAll("details:not([open]):not(.fold)"));
  folded.forEach(function (one) { one.open = true; });
});
addEventListener("afterprint", function () { folded.forEach(function (one) { one.open = false; }); folded = []; });
