"use strict";
(() => {
  const bar = document.getElementById("filter");
  const client = document.getElementById("filter-client");
  const attack = document.getElementById("filter-attack");
  const clear = document.getElementById("filter-clear");
  const status = document.getElementById("filter-status");
  const items = Array.from(document.querySelectorAll("[data-client]"));
  if (!bar || !client || !attack) { return; }
  const wanted = (select, value) => select.value === "" || select.value === value;
  const apply = () => {
    let shown = 0;
    for (const item of items) {
      const match = wanted(client, item.dataset.client) && wanted(attack, item.dataset.attack);
      item.hidden = !match;
      shown += match ? 1 : 0;
    }
    for (const section of document.querySelectorAll("[data-filtered]")) {
      const left = section.querySelector("[data-client]:not([hidden])");
      section.querySelector("[data-empty]").hidden = left !== null;
    }
    const all = client.value === "" && attack.value === "";
    clear.hidden = all;
    status.textContent = all ? `All ${items.length} entries below are shown.` : `${shown} of ${items.length} entries below are shown.`;
  };
  client.addEventListener("change", apply);
  attack.addEventListener("change", apply);
  clear.addEventListener("click", () => { client.value = ""; attack.value = ""; apply(); client.focus(); });
  bar.hidden = false;
  apply();
})();
