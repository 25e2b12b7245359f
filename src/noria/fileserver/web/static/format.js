// Sizes, durations and paths as text.

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) [count, unit] = [count / 1024, unit + 1];
  return unit ? `${count.toFixed(1)} ${UNITS[unit]}` : `${Math.round(count)} ${Math.round(count) === 1 ? "byte" : "bytes"}`;
}

export function duration(seconds) {
  seconds = Math.ceil(seconds);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// A decoded URL path, or null if its bytes are not UTF-8.
export function decoded(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return null;
  }
}
