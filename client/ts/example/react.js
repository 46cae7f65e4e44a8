// React's own files for pages define globals: this makes a module of them.
export const { createElement, useEffect, useState, useSyncExternalStore } = globalThis.React
export const { createRoot } = globalThis.ReactDOM
