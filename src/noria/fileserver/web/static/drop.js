// Files that were chosen or dropped, as [{file, folders}]; `folders` are the folder names above it.

export const chosen = (files) => [...files].map((file) => ({
  file,
  folders: file.webkitRelativePath ? file.webkitRelativePath.split("/").slice(0, -1) : [],
}));

// Call it in the event handler: a DataTransfer is empty afterwards.
export async function dropped(transfer) {
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries) {
    if (entry instanceof File) found.push({ file: entry, folders: [] });
    else if (entry) await walk(entry, [], found);
  }
  return found;
}

async function walk(entry, folders, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, folders });
    return;
  }
  const reader = entry.createReader();
  for (;;) { // readEntries returns at most a hundred entries
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return;
    for (const each of batch) await walk(each, [...folders, entry.name], found);
  }
}
