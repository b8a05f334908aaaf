// Opens pages in Chromium: node look.cjs CHROMIUM FOLDER PAGE...; needs puppeteer-core and axe-core.
// Prints what axe finds, what was fetched, what is too wide, and whether Tab and Enter sort.
const [chromium, folder, ...pages] = process.argv.slice(2);
const puppeteer = require("puppeteer-core");
const axe = require("axe-core");

async function look(browser, file, width) {
  const page = await browser.newPage();
  const fetched = [];
  page.on("request", (one) => {
    if (!one.url().startsWith("data:")) fetched.push(one.url());
  });
  await page.setViewport({ width, height: 900 });
  await page.goto(`file://${file}`);
  await page.screenshot({ path: `${folder}/page-${width}.png`, fullPage: true });
  const sorted = [];
  for (let presses = 0; presses < 40 && sorted.length < 2; presses++) {
    const heading = await page.evaluate(() => document.activeElement.closest("th[aria-sort]") !== null);
    if (heading) {
      await page.keyboard.press("Enter");
      sorted.push(await page.evaluate(() => ({
        order: document.activeElement.closest("th").getAttribute("aria-sort"),
        names: [...document.activeElement.closest("table").tBodies[0].rows].map((row) => row.cells[0].textContent),
        said: document.getElementById("sorted").textContent,
      })));
    } else {
      await page.keyboard.press("Tab");
    }
  }
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run());
  const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  await page.close();
  return {
    file, width, fetched, sorted, tooWide,
    passes: found.passes.length,
    violations: found.violations.map((one) => `${one.id}: ${one.nodes[0].html}`),
  };
}

(async () => {
  const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  const found = [];
  for (const file of pages) for (const width of [400, 1400]) found.push(await look(browser, file, width));
  await browser.close();
  console.log(JSON.stringify(found));
})();
