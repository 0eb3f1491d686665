// Hands a file to the browser. It comes as base64 in the value, so that nothing is written to the server's disk.
watch("value", () => {
  const { name, kind, data } = props.value || {};
  if (!data) return;
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
