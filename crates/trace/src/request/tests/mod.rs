mod attributes;
mod ends;
mod parent;
mod passes;
mod scope;
