// The page's videos: pauses all of them (from the start if the system asks for reduced motion) and
// enlarges one. `nasvidVideos.show(image)` pauses or plays a new picture like the others.
const nasvidVideos = (() => {
  const button = document.getElementById("pause");
  const dialog = document.getElementById("enlarged");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let paused = false;

  const firstFrame = (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
  };

  const show = async (image) => {
    image.dataset.moving ??= image.src;
    image.src = image.dataset.moving;
    if (!paused) return;
    const decoded = await image.decode().then(() => true, () => false); // false: shown anew meanwhile
    if (decoded && paused) image.src = firstFrame(image);
  };

  const all = () => document.querySelectorAll("img[data-subnet]");

  const pause = (wanted) => {
    paused = wanted;
    button?.setAttribute("aria-pressed", String(paused));
    if (button) button.textContent = paused ? "Play videos" : "Pause videos";
    all().forEach(show);
  };

  const enlarge = (image) => {
    const large = image.cloneNode();
    large.className = image.closest(".coarse") ? "coarse" : "";
    const caption = document.createElement("figcaption");
    caption.textContent = `${image.alt} (${image.dataset.resolution})`;
    dialog.querySelector("figure").replaceChildren(large, caption);
    dialog.showModal();
  };

  button?.addEventListener("click", () => pause(!paused));
  calm.addEventListener("change", () => pause(calm.matches));
  document.addEventListener("click", ({ target }) => {
    if (target === dialog) dialog.close();
    else if (target.matches?.("td img[data-subnet]")) enlarge(target);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches("td img[data-subnet]")) return;
    event.preventDefault();
    enlarge(event.target);
  });

  all().forEach((image) => (image.tabIndex = 0));
  if (calm.matches) pause(true);
  return { show };
})();
