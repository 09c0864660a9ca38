// Draws each figure when it comes into view: a page of many figures opens at once.
// A finger that drags across a figure scrolls the page; a mouse zooms.
const touch = matchMedia('(pointer: coarse)').matches;

function draw(figure) {
  if (figure.dataset.drawn) return;
  figure.dataset.drawn = 1;
  const spec = JSON.parse(figure.querySelector('script').textContent);
  if (touch) spec.layout.dragmode = false;
  const config = {responsive: true, displayModeBar: false, scrollZoom: false};
  Plotly.newPlot(figure.querySelector('div'), spec.data, spec.layout, config);
}

const figures = [...document.querySelectorAll('.plot')];
if ('IntersectionObserver' in window) {
  const observer = new IntersectionObserver(entries => entries.forEach(entry => {
    if (!entry.isIntersecting) return;
    observer.unobserve(entry.target);
    draw(entry.target);
  }), {rootMargin: '400px'});
  figures.forEach(figure => observer.observe(figure));
} else {
  figures.forEach(draw);
}
addEventListener('beforeprint', () => figures.forEach(draw));
