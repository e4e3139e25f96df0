// Keeps elements with data-mercure-auto-scroll at their bottom as items arrive, unless the
// reader has scrolled up to read.

const SLACK = 4; // pixels: zoomed pages do not scroll to whole ones
const atBottom = new WeakMap();

function follow(element) {
  if (atBottom.has(element)) return;
  const toBottom = () => {
    if (atBottom.get(element)) element.scrollTop = element.scrollHeight;
  };
  atBottom.set(element, true);
  element.addEventListener("scroll", () => {
    const below = element.scrollHeight - element.scrollTop - element.clientHeight;
    atBottom.set(element, below <= SLACK);
  });
  // Images grow an item after it was added.
  element.addEventListener("load", toBottom, true);
  new MutationObserver(toBottom).observe(element, {
    childList: true,
    characterData: true,
    subtree: true,
  });
  toBottom();
}

function followAll(root) {
  if (root.nodeType !== Node.ELEMENT_NODE && root !== document) return;
  if (root !== document && root.matches("[data-mercure-auto-scroll]")) follow(root);
  root.querySelectorAll("[data-mercure-auto-scroll]").forEach(follow);
}

followAll(document);
new MutationObserver((changes) => {
  for (const change of changes) change.addedNodes.forEach(followAll);
}).observe(document, { childList: true, subtree: true });
