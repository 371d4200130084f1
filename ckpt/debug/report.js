"use strict";
// Everything can be read without this: titles, links and the tables are in the page already.
document.documentElement.classList.add("js");
const map = document.getElementById("map");
const about = document.getElementById("about");
let chosen = null;

function tell(block) {
	about.textContent = block.title;
}

if (map && about) {
	about.hidden = false;
	about.textContent = "Point at a block, or choose it, to see what it is.";
	map.addEventListener("mouseover", (event) => {
		const block = event.target.closest(".block");
		if (block) tell(block);
	});
	map.addEventListener("mouseleave", () => chosen && tell(chosen));
	map.addEventListener("focusin", (event) => {
		const block = event.target.closest(".block");
		if (block) tell(block);
	});
	map.addEventListener("click", (event) => {
		const block = event.target.closest(".block");
		if (!block) return;
		event.preventDefault();
		if (chosen) chosen.classList.remove("on");
		chosen = block;
		block.classList.add("on");
		tell(block);
	});
}

let only = "";
for (const entry of document.querySelectorAll(".legend li")) {
	entry.tabIndex = 0;
	entry.setAttribute("role", "button");
	const toggle = () => {
		only = only === entry.dataset.kind ? "" : entry.dataset.kind;
		for (const other of document.querySelectorAll(".legend li"))
			other.classList.toggle("on", other.dataset.kind === only);
		for (const block of document.querySelectorAll(".block"))
			block.classList.toggle("off", only !== "" && block.dataset.kind !== only);
	};
	entry.addEventListener("click", toggle);
	entry.addEventListener("keydown", (event) => {
		if (event.key === "Enter" || event.key === " ") {
			event.preventDefault();
			toggle();
		}
	});
}
