// Another operation has other settings: the server renders the form again, with all that was typed, and saves nothing.
document.addEventListener("DOMContentLoaded", () => {
    const recipe = document.querySelector("select[name=recipe]");
    const redraw = document.querySelector("button[name=_redraw]");
    if (!recipe || !redraw) return;
    redraw.hidden = true;
    redraw.type = "button"; // or the Enter key would submit it
    recipe.addEventListener("change", () => {
        redraw.type = "submit";
        redraw.click();
    });
});
